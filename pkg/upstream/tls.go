package upstream

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// suites are the TLS 1.2 suites offered to backends: AEAD with forward secrecy.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// sessionCache is how many TLS sessions are kept for resumption per backend.
const sessionCache = 64

// tlsConfig returns how a backend is spoken to, or nil for plain HTTP.
func tlsConfig(cfg *config.Backend, embedded *x509.CertPool, now func() time.Time) (*tls.Config, error) {
	if err := consistent(cfg); err != nil || cfg.Insecure {
		return nil, err
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites, ServerName: cfg.ServerName, Time: now,
		ClientSessionCache: tls.NewLRUClientSessionCache(sessionCache), RootCAs: embedded,
		// Small records at first help a browser to begin early, and cost us a write
		// each.
		DynamicRecordSizingDisabled: true,
	}
	switch {
	case cfg.CAFile != "":
		pool, err := readRoots(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		c.RootCAs = pool
	case cfg.SystemRoots:
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("system_roots: %w", err)
		}
		c.RootCAs = pool
	case embedded == nil:
		// A nil pool would mean the system's roots to crypto/tls.
		return nil, errors.New("no roots to check the backend's certificate against")
	}
	if len(cfg.Pins) > 0 {
		pins, err := parsePins(cfg.Pins)
		if err != nil {
			return nil, err
		}
		// VerifyConnection, unlike VerifyPeerCertificate, is also called when a
		// session is resumed.
		c.VerifyConnection = func(st tls.ConnectionState) error { return checkPins(st, pins) }
	}
	if cfg.Certificate != "" {
		k := &keyPair{certFile: cfg.Certificate, keyFile: cfg.Key}
		if err := k.load(); err != nil {
			return nil, err
		}
		// A resumed session would go on under the certificate it began with, so
		// that a replaced one would not be shown.
		c.ClientSessionCache = nil
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.get(), nil }
	}
	return c, nil
}

// consistent refuses settings that contradict each other: one of them would have
// to be left aside, and whoever wrote it would believe in it.
func consistent(cfg *config.Backend) error {
	switch {
	case cfg.Insecure && (cfg.CAFile != "" || cfg.SystemRoots || len(cfg.Pins) > 0 || cfg.Certificate != "" || cfg.ServerName != "" || cfg.HTTP2):
		return errors.New("insecure: plain HTTP has no certificates and no HTTP/2")
	case cfg.CAFile != "" && cfg.SystemRoots:
		return errors.New("ca_file and system_roots: only one of them can be what the certificate is checked against")
	case (cfg.Certificate == "") != (cfg.Key == ""):
		return errors.New("certificate and key: neither is of use without the other")
	}
	return nil
}

// readRoots reads a file of PEM certificates. Every block must be one that can be
// read: a bundle that is half understood trusts another set than was meant.
func readRoots(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	begun := bytes.Count(data, []byte("-----BEGIN"))
	pool, n := x509.NewCertPool(), 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: block %d is no certificate", path, n+1)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, n+1, err)
		}
		pool.AddCert(cert)
		data = rest
		n++
	}
	// What pem.Decode can not read it skips, in front of a block as behind it.
	if n != begun {
		return nil, fmt.Errorf("%s: a block of it is broken", path)
	}
	if n == 0 {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	return pool, nil
}

func parsePins(list []string) ([][32]byte, error) {
	var out [][32]byte
	for _, p := range list {
		raw, ok := strings.CutPrefix(p, "sha256/")
		sum, err := base64.StdEncoding.DecodeString(raw)
		if !ok || err != nil || len(sum) != 32 {
			return nil, fmt.Errorf("pin %q is not sha256/ and 32 bytes in base64", p)
		}
		out = append(out, [32]byte(sum))
	}
	return out, nil
}

// checkPins reports whether the backend's own key is a pinned one. The chain has
// been verified before.
func checkPins(st tls.ConnectionState, pins [][32]byte) error {
	sum := sha256.Sum256(st.PeerCertificates[0].RawSubjectPublicKeyInfo)
	for i := range pins {
		if subtle.ConstantTimeCompare(sum[:], pins[i][:]) == 1 {
			return nil
		}
	}
	return errors.New("the backend's key is not one of its pins")
}

// keyPair is a client certificate whose files are read again when they change; a
// pair that does not fit together, as in the middle of a change, is left aside.
type keyPair struct {
	certFile, keyFile string

	mu   sync.Mutex
	cert *tls.Certificate
	seen time.Time
}

func (k *keyPair) modified() (t time.Time) {
	for _, f := range [...]string{k.certFile, k.keyFile} {
		if st, err := os.Stat(f); err == nil && st.ModTime().After(t) {
			t = st.ModTime()
		}
	}
	return t
}

func (k *keyPair) load() error {
	seen := k.modified()
	cert, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err != nil {
		return fmt.Errorf("client certificate %s: %w", k.certFile, err)
	}
	k.cert, k.seen = &cert, seen
	return nil
}

func (k *keyPair) get() *tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.modified().Equal(k.seen) {
		_ = k.load() // the old pair goes on until the new one is whole
	}
	return k.cert
}
