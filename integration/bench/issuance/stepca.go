package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

// A stepCA is smallstep's step-ca with a JWK provisioner, as `step ca init` sets
// it up, and one of its databases.
type stepCA struct {
	process
	database string
	key      crypto.Signer // the provisioner's
}

func (s *stepCA) name() string { return "step-ca, " + s.database }

const passphrase = "a passphrase for the bench"

func startStep(ctx context.Context, program, dir, database string) (*stepCA, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	made, err := ca.Init(ctx, ca.InitConfig{Dir: dir, TrustDomain: "bench.example", Organisation: "Bench", Passphrase: []byte(passphrase)})
	if err != nil {
		return nil, err
	}
	s := &stepCA{process: process{base: "https://localhost:" + port, pool: x509.NewCertPool()}, database: database}
	s.pool.AddCert(made.Root)
	if s.key, err = ca.GenerateKey(ca.P256); err != nil {
		return nil, err
	}
	point, err := s.key.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		return nil, err
	}
	enc := base64.RawURLEncoding.EncodeToString
	at := func(name string) string { return filepath.Join(dir, name) }
	// A gateway's certificates live a year; so may these.
	conf, err := json.Marshal(map[string]any{
		"root": at("root.crt"), "crt": at("intermediate.crt"), "key": at("intermediate.key"),
		"address": "127.0.0.1:" + port, "dnsNames": []string{"localhost"}, "logger": map[string]string{"format": "text"},
		"db": map[string]string{"type": database, "dataSource": at("db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{
			"type": "JWK", "name": "bench", "claims": map[string]string{"maxTLSCertDuration": "8760h", "defaultTLSCertDuration": "8760h"},
			"key": map[string]string{"use": "sig", "kty": "EC", "kid": "bench", "crv": "P-256", "alg": "ES256", "x": enc(point[1:33]), "y": enc(point[33:])},
		}}},
	})
	if err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{"ca.json": conf, "password": []byte(passphrase)} {
		if err := os.WriteFile(at(name), data, 0o600); err != nil {
			return nil, err
		}
	}
	if err := s.start(dir, program, at("ca.json"), "--password-file", at("password")); err != nil {
		return nil, fmt.Errorf("%w (go install github.com/smallstep/certificates/cmd/step-ca at the version in go.mod)", err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}}
	defer tr.CloseIdleConnections()
	if err := s.ready(ctx, &http.Client{Transport: tr}, s.base+"/health", dir); err != nil {
		return nil, fmt.Errorf("step-ca: %w", err)
	}
	return s, nil
}

// tokens makes one-time tokens as `step ca token` does.
func (s *stepCA) tokens(_ context.Context, ids []string) ([]string, error) {
	out := make([]string, len(ids))
	for n, id := range ids {
		var nonce [16]byte
		_, _ = rand.Read(nonce[:]) // never fails
		now := time.Now()
		token, err := jws.Compact(jws.Header{KeyID: "bench", Type: "JWT"}, map[string]any{
			"iss": "bench", "aud": s.base + "/1.0/sign", "sub": id, "sans": []string{id}, "jti": hex.EncodeToString(nonce[:]),
			"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(4 * time.Minute).Unix(),
		}, s.key)
		if err != nil {
			return nil, err
		}
		out[n] = token
	}
	return out, nil
}
