// Command spiffe-authority stands in for spire-server: it keeps registration entries and signing keys and signs JWT-SVIDs.
//
// Keys and entries live in one file, so a killed authority comes back as it was. Whoever can open the socket (mode 0600) is its
// administrator; there is no node attestation. Claims and header are those of SPIRE: aud as an array, exp, iat, sub; alg, kid, typ.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

func main() {
	folder := flag.String("dir", "", "folder of the keys and entries")
	trustDomain := flag.String("trust-domain", "robin.test", "name of the trust domain")
	socket := flag.String("socket", "", "unix socket to listen on")
	flag.Parse()
	ledger, err := openLedger(filepath.Join(*folder, "ledger.json"), *trustDomain)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := listenPrivate(*socket)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	log.Fatal(http.Serve(listener, routes(ledger)))
}

func listenPrivate(socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(socket, 0o600)
}

func routes(ledger *ledger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		state, err := ledger.state()
		answer(w, state, err)
	})
	mux.HandleFunc("POST /entries", func(w http.ResponseWriter, r *http.Request) {
		var wanted entry
		if decode(w, r, &wanted) {
			made, err := ledger.create(wanted)
			answer(w, made, err)
		}
	})
	mux.HandleFunc("DELETE /entries/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, ledger.remove(r.PathValue("id")))
	})
	mux.HandleFunc("POST /keys", func(w http.ResponseWriter, _ *http.Request) {
		kid, err := ledger.rotate()
		answer(w, map[string]string{"kid": kid}, err)
	})
	mux.HandleFunc("DELETE /keys/{kid}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, ledger.forget(r.PathValue("kid")))
	})
	mux.HandleFunc("POST /sign", func(w http.ResponseWriter, r *http.Request) {
		var wanted order
		if decode(w, r, &wanted) {
			signed, err := ledger.sign(wanted)
			answer(w, signed, err)
		}
	})
	return mux
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(into); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		log.Print(err)
	}
}
