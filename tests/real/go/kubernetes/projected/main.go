// Command kube-project writes one file into a projected volume with the kubelet's own atomic writer: kube-project FOLDER NAME < content.
//
// The kubelet writes service account tokens this way: a new timestamped folder, the link ..data swung over to it by one rename, the
// old folder removed. Mode 0644, as for a pod without fsGroup or runAsUser.
package main

import (
	"fmt"
	"io"
	"os"

	"k8s.io/kubernetes/pkg/volume/util"
)

func main() {
	if err := project(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func project() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: kube-project FOLDER NAME < content")
	}
	content, err := io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
	if err != nil {
		return err
	}
	writer, err := util.NewAtomicWriter(os.Args[1], "kube-project")
	if err != nil {
		return err
	}
	return writer.Write(map[string]util.FileProjection{os.Args[2]: {Data: content, Mode: 0o644}}, nil)
}
