package main

// The same upstream behind TLS: a goroutine per connection, since crypto/tls cannot live in the epoll loop.

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
)

// serveTLS answers until standard input ends.
func serveTLS(directory string, credential []byte) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(directory, "leaf.pem"), filepath.Join(directory, "leaf.key"))
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		return err
	}
	json.NewEncoder(os.Stdout).Encode(map[string]string{"upstream": listener.Addr().String()})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		listener.Close()
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil
		}
		go answerSmall(conn, credential)
	}
}

func answerSmall(conn net.Conn, credential []byte) {
	defer conn.Close()
	in, have := make([]byte, 16384), 0
	for {
		n, err := conn.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		end := bytes.Index(in[:have], headEnd)
		if end < 0 {
			continue
		}
		out := smallAnswer
		if !bytes.Contains(in[:end], credential) {
			out = deniedAnswer
		}
		have = 0
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}
