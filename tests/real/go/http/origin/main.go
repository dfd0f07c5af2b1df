// An origin made of Go's net/http that answers with what it parsed, in hexadecimal JSON; `n` counts the requests it read to their end.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
)

func main() {
	var count atomic.Int64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{Handler: http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fields := [][2]string{{hex.EncodeToString([]byte("Host")), hex.EncodeToString([]byte(request.Host))}}
		for name, values := range request.Header {
			for _, value := range values {
				fields = append(fields, [2]string{hex.EncodeToString([]byte(name)), hex.EncodeToString([]byte(value))})
			}
		}
		echo, _ := json.Marshal(map[string]any{
			"n":      count.Add(1),
			"method": hex.EncodeToString([]byte(request.Method)),
			"target": hex.EncodeToString([]byte(request.RequestURI)),
			"fields": fields,
			"body":   hex.EncodeToString(body),
		})
		if request.Method == "HEAD" {
			writer.Header().Set("X-Echo", string(echo))
		}
		writer.Header().Set("X-Origin", "go")
		writer.Write(echo)
	})}
	fmt.Fprintln(os.Stderr, server.Serve(listener))
	os.Exit(1)
}
