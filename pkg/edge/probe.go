package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"github.com/mholt/acmez/v3"
)

// ShowChallenge asks a server for the certificate by which it answers a tls-alpn-01
// challenge (RFC 8737 §3) for a name. That certificate is signed by itself and
// chains to nothing; what it says is for the caller to look at. Nothing is sent
// over the connection, and the caller closes it.
func ShowChallenge(ctx context.Context, conn net.Conn, name string) (*x509.Certificate, error) {
	tc := tls.Client(conn, &tls.Config{
		ServerName: name, NextProtos: []string{acmez.ACMETLS1Protocol}, MinVersion: tls.VersionTLS12, CurvePreferences: groups,
		CipherSuites: modernSuites, SessionTicketsDisabled: true, Renegotiation: tls.RenegotiateNever,
		InsecureSkipVerify: true, // the one place: see above
	})
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	st := tc.ConnectionState()
	if st.NegotiatedProtocol != acmez.ACMETLS1Protocol || len(st.PeerCertificates) != 1 {
		return nil, errors.New("it does not speak acme-tls/1, or shows more than one certificate")
	}
	return st.PeerCertificates[0], nil
}
