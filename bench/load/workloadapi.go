package main

// A SPIFFE Workload API with one answer: FetchJWTSVID over gRPC on a Unix socket, by hand on net/http's HTTP/2.

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// serveWorkloadAPI hands out the credential's token until standard input ends.
func serveWorkloadAPI(socket string, credential []byte) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	json.NewEncoder(os.Stdout).Encode(map[string]string{"socket": socket})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		listener.Close()
	}()
	reply := svidReply(strings.TrimPrefix(string(credential), "Bearer "))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /SpiffeWorkloadAPI/FetchJWTSVID", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		io.Copy(io.Discard, r.Body)
		if r.Header.Get("workload.spiffe.io") != "true" {
			w.Header().Set("Grpc-Status", "3")
			w.Header().Set("Grpc-Message", "security header missing")
			return
		}
		w.Write(reply)
		w.Header().Set("Grpc-Status", "0")
	})
	server := &http.Server{Handler: mux, Protocols: new(http.Protocols)}
	server.Protocols.SetUnencryptedHTTP2(true)
	server.Serve(listener)
	return nil
}

// svidReply is JWTSVIDResponse{svids: [{spiffe_id = 1, svid = 2}]} behind gRPC's five bytes.
func svidReply(token string) []byte {
	svid := append(field(1, []byte(spiffeID)), field(2, []byte(token))...)
	message := field(1, svid)
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func field(number byte, value []byte) []byte {
	return append(binary.AppendUvarint([]byte{number<<3 | 2}, uint64(len(value))), value...)
}
