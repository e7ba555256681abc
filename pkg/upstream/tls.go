package upstream

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
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
	if cfg.Insecure {
		return nil, nil
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites, ServerName: cfg.ServerName, Time: now,
		ClientSessionCache: tls.NewLRUClientSessionCache(sessionCache), RootCAs: embedded,
	}
	switch {
	case cfg.CAFile != "":
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: no certificate in %s", cfg.CAFile)
		}
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
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.get(), nil }
	}
	return c, nil
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
