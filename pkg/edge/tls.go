package edge

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// modernSuites are the TLS 1.2 suites of the modern profile: forward secrecy and
// AEAD only (NIST SP 800-52r2 section 3.3.1, RFC 9325 section 4.2). Go's own
// default still has CBC suites, so they are named. TLS 1.3 has no others.
var modernSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// legacySuites are what the legacy profile adds, for devices that were made when
// DICOM's and IHE's profiles asked for TLS_RSA_WITH_AES_128_CBC_SHA.
var legacySuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA,
}

// groups are the key exchange groups offered, hybrid post-quantum first.
var groups = []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384}

// tlsConfig makes a listener's TLS configuration. Every configuration has its
// own session ticket keys, so a ticket is worth nothing on another listener or
// after the listener was configured anew, and VerifyConnection asks the registry
// on every handshake, so a ticket does not outlive a revocation either.
func tlsConfig(l *config.Listener, anchors []*x509.Certificate, cert *serverCert, alpn []string,
	verify func(tls.ConnectionState) error, now func() time.Time) *tls.Config {
	pool := x509.NewCertPool()
	for _, a := range anchors {
		pool.AddCert(a)
	}
	c := &tls.Config{
		Time:                   now,
		GetCertificate:         cert.get,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              pool, // the only roots there are for devices: never the system's
		VerifyConnection:       verify,
		MinVersion:             tls.VersionTLS12,
		CipherSuites:           modernSuites,
		CurvePreferences:       groups,
		NextProtos:             alpn,
		SessionTicketsDisabled: !l.TLS.Tickets,
		Renegotiation:          tls.RenegotiateNever,
		// Small records at first help a browser to begin early, and cost us a write
		// each.
		DynamicRecordSizingDisabled: true,
	}
	if l.TLS.Profile == "legacy" {
		c.CipherSuites = slices.Concat(modernSuites, legacySuites)
	}
	if cert.alpn {
		// RFC 8737: a validation connection offers acme-tls/1 and nothing else,
		// gets the challenge certificate, and is closed after the handshake.
		challenge := &tls.Config{
			Time: now, MinVersion: tls.VersionTLS12, GetCertificate: cert.get,
			NextProtos: []string{acmez.ACMETLS1Protocol}, SessionTicketsDisabled: true,
		}
		c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if len(h.SupportedProtos) == 1 && h.SupportedProtos[0] == acmez.ACMETLS1Protocol {
				if _, ok := certmagic.GetACMEChallenge(h.ServerName); ok {
					return challenge, nil
				}
			}
			return nil, nil
		}
	}
	return c
}

// facts returns what policies see of a connection's TLS.
func facts(st *tls.ConnectionState) protocol.TLS {
	version := "1.2"
	if st.Version == tls.VersionTLS13 {
		version = "1.3"
	}
	return protocol.TLS{
		Version: version,
		Cipher:  tls.CipherSuiteName(st.CipherSuite),
		Group:   st.CurveID.String(),
		SNI:     strings.ToLower(st.ServerName),
		ALPN:    st.NegotiatedProtocol,
		Resumed: st.DidResume,
	}
}
