package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// peerCredentials are no credentials on the wire: they ask the kernel who connected.
type peerCredentials struct{}

// caller is the process that connected.
type caller struct {
	credentials.CommonAuthInfo
	ucred syscall.Ucred
}

func (caller) AuthType() string { return "peer" }

func (peerCredentials) ServerHandshake(connection net.Conn) (net.Conn, credentials.AuthInfo, error) {
	unix, ok := connection.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("a %T has no peer credentials", connection)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var found *syscall.Ucred
	var failed error
	if err := raw.Control(func(descriptor uintptr) {
		found, failed = syscall.GetsockoptUcred(int(descriptor), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return nil, nil, err
	}
	if failed != nil {
		return nil, nil, failed
	}
	return connection, caller{ucred: *found}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server side only")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peer"}
}

func (peerCredentials) Clone() credentials.TransportCredentials { return peerCredentials{} }

func (peerCredentials) OverrideServerName(string) error { return nil }

// attest tells the selectors of SPIRE's unix attestor for whoever made the call; a caller that has ended is refused.
func attest(call context.Context) (map[string]bool, error) {
	from, ok := peer.FromContext(call)
	if !ok {
		return nil, status.Error(codes.Internal, "no peer")
	}
	who, ok := from.AuthInfo.(caller)
	if !ok {
		return nil, status.Error(codes.Internal, "no peer credentials")
	}
	selectors := map[string]bool{
		fmt.Sprintf("unix:uid:%d", who.ucred.Uid): true,
		fmt.Sprintf("unix:gid:%d", who.ucred.Gid): true,
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", who.ucred.Pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, status.Error(codes.PermissionDenied, "workload has ended")
	}
	if err == nil {
		selectors["unix:path:"+strings.TrimSuffix(path, " (deleted)")] = true
	}
	return selectors, nil
}

func checkHeader(call context.Context) error {
	values := metadata.ValueFromIncomingContext(call, "workload.spiffe.io")
	if len(values) != 1 || values[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}

func checkedUnary(call context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := checkHeader(call); err != nil {
		return nil, err
	}
	return next(call, request)
}

// told logs each call when it ends, as `CALL <pid of the caller> <method> <code> <seconds>`: what a test counts.
func told(call context.Context, request any, of *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	began := time.Now()
	answer, err := next(call, request)
	pid := int32(0)
	if from, ok := peer.FromContext(call); ok {
		if who, ok := from.AuthInfo.(caller); ok {
			pid = who.ucred.Pid
		}
	}
	log.Printf("CALL %d %s %s %.3f", pid, path.Base(of.FullMethod), status.Code(err), time.Since(began).Seconds())
	return answer, err
}

func checkedStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := checkHeader(stream.Context()); err != nil {
		return err
	}
	return next(server, stream)
}
