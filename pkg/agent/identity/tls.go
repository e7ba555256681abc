package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"sync"
	"time"
)

// suites are the TLS 1.2 suites that are offered and taken: AEAD with forward
// secrecy. TLS 1.3 has no others.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// sessions is how many TLS sessions are kept for resumption, for each listener of
// the gateway. One is what a device in its rest needs.
const sessions = 4

// tlsConfig is how the enrolment listener is spoken to.
func (c *Client) tlsConfig(as *Identity) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: suites, RootCAs: as.Roots, Time: c.Clock}
	if as.Pair.Certificate != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &as.Pair, nil }
	}
	return cfg
}

// A Peer is a listener of the gateway.
type Peer struct {
	Name   string // its certificate must carry
	CAFile string // what it is checked against; "" for the gateway's own root
	ALPN   []string
}

// A Holder has the identity in force.
type Holder struct {
	store *Store
	clock func() time.Time

	mu      sync.Mutex
	id      *Identity
	seen    os.FileInfo
	configs map[*Peer]*tls.Config
}

// Hold returns a holder of the store's identity, which has to be there.
func (s *Store) Hold(clock func() time.Time) (*Holder, error) {
	h := &Holder{store: s, clock: clock}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h, h.load()
}

// load reads the identity; h.mu is held.
func (h *Holder) load() error {
	seen, err := os.Stat(h.store.path(identityFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	id, err := h.store.Load()
	if err != nil {
		return err
	}
	// Sessions that were begun with the former certificate would be resumed with it.
	h.id, h.seen, h.configs = id, seen, map[*Peer]*tls.Config{}
	return nil
}

// Current returns the identity in force. If what is in the store can not be read,
// the last one that could goes on.
func (h *Holder) Current() *Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current()
}

func (h *Holder) current() *Identity {
	st, err := os.Stat(h.store.path(identityFile))
	if err == nil && (!os.SameFile(st, h.seen) || !st.ModTime().Equal(h.seen.ModTime())) {
		_ = h.load()
	}
	return h.id
}

// Config returns how a listener is connected to, as the identity in force. A peer
// is told by its pointer.
func (h *Holder) Config(p *Peer) (*tls.Config, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := h.current()
	if c := h.configs[p]; c != nil {
		return c, nil
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites, ServerName: p.Name, RootCAs: id.Roots, NextProtos: p.ALPN, Time: h.clock,
		ClientSessionCache:   tls.NewLRUClientSessionCache(sessions),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &id.Pair, nil },
	}
	if p.CAFile != "" {
		var err error
		if c.RootCAs, err = readRoots(p.CAFile); err != nil {
			return nil, err
		}
	}
	h.configs[p] = c
	return c, nil
}

// ServerConfig is how the gateway is let in that connects to the agent: it has a
// key with one of the pins, and no other word of it counts.
func ServerConfig(own *tls.Certificate, pins [][sha256.Size]byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites, Certificates: []tls.Certificate{*own},
		ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		VerifyConnection: func(st tls.ConnectionState) error {
			if len(st.PeerCertificates) > 0 && pinned(st.PeerCertificates[0], pins) {
				return nil
			}
			return errors.New("the key that was shown is not one of the pins")
		},
	}
}

func pinned(leaf *x509.Certificate, pins [][sha256.Size]byte) bool {
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	ok := 0
	for i := range pins {
		ok |= subtle.ConstantTimeCompare(sum[:], pins[i][:])
	}
	return ok == 1
}
