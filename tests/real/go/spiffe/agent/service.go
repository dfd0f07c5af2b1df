package main

import (
	"bytes"
	"context"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// service is the JWT half of the Workload API.
type service struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	mirror *mirror
	vault  *vault
}

func (s *service) FetchJWTSVID(call context.Context, request *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if len(request.Audience) == 0 {
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	}
	if request.SpiffeId != "" {
		if _, err := spiffeid.FromString(request.SpiffeId); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "invalid requested SPIFFE ID: %v", err)
		}
	}
	selectors, err := attest(call)
	if err != nil {
		return nil, err
	}
	response := &workload.JWTSVIDResponse{}
	for _, entry := range s.mirror.matching(selectors) {
		if request.SpiffeId != "" && entry.SpiffeID != request.SpiffeId {
			continue
		}
		token, err := s.vault.fetch(call, entry, request.Audience)
		if err != nil {
			return nil, status.Errorf(codes.Unavailable, "could not fetch JWT-SVID: %v", err)
		}
		response.Svids = append(response.Svids, &workload.JWTSVID{SpiffeId: entry.SpiffeID, Svid: token, Hint: entry.Hint})
	}
	if len(response.Svids) == 0 {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	return response, nil
}

func (s *service) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream workload.SpiffeWorkloadAPI_FetchJWTBundlesServer) error {
	selectors, err := attest(stream.Context())
	if err != nil {
		return err
	}
	var sent []byte
	for {
		state, changed := s.mirror.look()
		if len(s.mirror.matching(selectors)) == 0 {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if !bytes.Equal(sent, state.Bundle) {
			bundles := map[string][]byte{"spiffe://" + state.TrustDomain: state.Bundle}
			if err := stream.Send(&workload.JWTBundlesResponse{Bundles: bundles}); err != nil {
				return err
			}
			sent = state.Bundle
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (s *service) ValidateJWTSVID(call context.Context, request *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if request.Audience == "" {
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	}
	if request.Svid == "" {
		return nil, status.Error(codes.InvalidArgument, "svid must be specified")
	}
	if _, err := attest(call); err != nil {
		return nil, err
	}
	state, _ := s.mirror.look()
	domain, err := spiffeid.TrustDomainFromString(state.TrustDomain)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	bundle, err := jwtbundle.Parse(domain, state.Bundle)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	svid, err := jwtsvid.ParseAndValidate(request.Svid, bundle, []string{request.Audience})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims, err := structpb.NewStruct(svid.Claims)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}
