// Command spiffe-agent stands in for spire-agent: the official Workload API service of go-spiffe on a real gRPC server.
//
// What a workload can notice follows SPIRE 1.13+ as its source tells it: attestation by the caller's process, the order of the
// checks and their gRPC codes, the token cache and its half-life, an old token as success while the authority cannot be reached,
// Unavailable once it has expired, entries noticed at the next sync. Only the JWT calls exist; the others answer Unimplemented.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"

	"robin.test/real/spiffe/wire"
)

func main() {
	authority := flag.String("authority", "", "unix socket of the authority")
	socket := flag.String("socket", "", "unix socket of the Workload API")
	every := flag.Duration("sync", 5*time.Second, "how often entries and bundle are fetched (SPIRE: 5s)")
	flag.Parse()
	call, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	mirror := newMirror(wire.Dial(*authority), *every)
	if !mirror.untilFirstSync(call) {
		return
	}
	listener, err := listenPublic(*socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.ChainUnaryInterceptor(told, checkedUnary),
		grpc.ChainStreamInterceptor(checkedStream),
	)
	workload.RegisterSpiffeWorkloadAPIServer(server, &service{mirror: mirror, vault: newVault(mirror.client)})
	go mirror.run(call)
	go func() {
		<-call.Done()
		server.Stop()
	}()
	fmt.Println("ready")
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

// listenPublic replaces a socket left behind by a killed agent, as SPIRE does, and lets every local user connect.
func listenPublic(socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(socket, 0o777)
}
