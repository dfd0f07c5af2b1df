// One GET and one POST with Go's default client, which reads proxy and roots from the environment; one JSON object a line for each.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	tell("get", func() (*http.Response, error) { return http.Get(os.Args[1]) })
	tell("post", func() (*http.Response, error) {
		return http.Post(os.Args[1], "text/plain", bytes.NewReader(make([]byte, 300_000)))
	})
}

func tell(step string, ask func() (*http.Response, error)) {
	response, err := ask()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	line, _ := json.Marshal(map[string]any{"step": step, "got": []any{response.StatusCode, string(content[:min(len(content), 40)])}})
	fmt.Println(string(line))
}
