package main

// The little HTTP/1.1 both ends need: they speak only to each other, through a proxy that keeps Content-Length.

import (
	"bytes"
	"fmt"
	"strings"
)

var headEnd = []byte("\r\n\r\n")

const body = `{"id":"req_01J9ZK3W8QF5T2N7XV4B6C0D1E","object":"model","name":"bench-small","created":1760000000,` +
	`"owned_by":"robin-bench","limits":{"input":200000,"output":8192},"status":"available","note":"ok"}`

func answer(status, contentType string, length int64) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: %s\r\nContent-Length: %d\r\n"+
		"Server: bench\r\nX-Request-Id: req_01J9ZK3W8QF5T2N7XV4B6C0D1E\r\n\r\n", status, contentType, length)
}

var (
	smallAnswer  = []byte(answer("200 OK", "application/json", int64(len(body))) + body)
	deniedAnswer = []byte(answer("401 Unauthorized", "text/plain", 0))
)

// request renders what an SDK would send: eight fields, a placeholder where the credential will go.
func request(method, target, host, authorization, more string) []byte {
	return []byte(strings.Join([]string{
		method + " " + target + " HTTP/1.1",
		"Host: " + host,
		"Accept: application/json",
		"Accept-Encoding: gzip, deflate",
		"Connection: keep-alive",
		"User-Agent: OpenAI/Python 1.51.0",
		"X-Stainless-Lang: python",
		"X-Stainless-Package-Version: 1.51.0",
		"Authorization: " + authorization,
		more,
	}, "\r\n") + "\r\n")
}

// contentLength finds the field in a head in any letter case; -1 when it is absent.
func contentLength(head []byte) int64 {
	for len(head) > 0 {
		line := head
		if i := bytes.IndexByte(head, '\n'); i >= 0 {
			line, head = head[:i], head[i+1:]
		} else {
			head = nil
		}
		if len(line) > 15 && line[14] == ':' && (line[0]|0x20) == 'c' && bytes.EqualFold(line[:14], []byte("content-length")) {
			n := int64(0)
			for _, c := range line[15:] {
				if c >= '0' && c <= '9' {
					n = n*10 + int64(c-'0')
				}
			}
			return n
		}
	}
	return -1
}
