package main

// Throw-away keys: a CA, a certificate for 127.0.0.1, and a token shaped like a projected Kubernetes token, whose
// subject is a SPIFFE ID so that the Workload API can hand out the same one.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const spiffeID = "spiffe://bench.example/app"

func writePKI(directory string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := certificate("Robin bench CA", 1)
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := certificate("127.0.0.1", 2)
	leaf.IPAddresses, leaf.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &leafKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return err
	}
	token, err := projectedToken(time.Now())
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.pem":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}),
		"leaf.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}),
		"leaf.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		"token":    []byte(token),
	} {
		if err := os.WriteFile(filepath.Join(directory, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func certificate(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// projectedToken signs with RS256, as most API servers do, for a length that a real sidecar carries.
func projectedToken(now time.Time) (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	segment := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"aud":["bench"],"exp":%d,"iat":%d,"iss":"https://kubernetes.default.svc.cluster.local",`+
		`"jti":"6f0c1a52-0d2b-4f0e-9a37-2f7a4e1c8b90","kubernetes.io":{"namespace":"bench","node":{"name":"node-1",`+
		`"uid":"0b1f3c7e-3a2d-4d52-8a6f-5e0c9d1b7a42"},"pod":{"name":"app-7c9d8f6b5-x2x4q",`+
		`"uid":"b3f1d0a6-91c5-4a77-9e1f-0c8e2a6d4f35"},"serviceaccount":{"name":"app",`+
		`"uid":"d4c2a1b0-7e6f-4b3c-8d9a-1f0e2d3c4b5a"}},"nbf":%d,"sub":%q}`,
		now.Add(24*time.Hour).Unix(), now.Unix(), now.Unix(), spiffeID)
	signed := segment([]byte(`{"alg":"RS256","kid":"bench"}`)) + "." + segment([]byte(claims))
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	return signed + "." + segment(signature), err
}
