package identity

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"time"
)

const (
	serverFile = "reverse.pem" // key and certificate
	// CertificateFile is the certificate alone, for the gateway's ca_file.
	CertificateFile = "reverse.crt"
	serverKey       = "reverse.key" // while the two are made
	// serverName is what the certificate is made out to: there is one name, because
	// the gateway trusts the certificate and not who signed it.
	serverName = "anteroom-agent"
)

// ServerCertificate returns the certificate that the agent shows to the gateway
// when that connects. It is the agent's own, signed by nobody, made when it is
// first asked for; the gateway is given a copy.
func (s *Store) ServerCertificate() (*tls.Certificate, error) {
	data, err := readFile(s.path(serverFile), true)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = s.newServerCertificate()
	}
	if err != nil {
		return nil, fmt.Errorf("the agent's own certificate: %w", err)
	}
	pair, err := s.openPair(data)
	if err != nil {
		return nil, fmt.Errorf("the agent's own certificate: %w", err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	if was, err := readFile(s.path(CertificateFile), false); err != nil || string(was) != string(public) {
		if err := writeFile(s.path(CertificateFile), public); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

func (s *Store) newServerCertificate() ([]byte, error) {
	key, err := s.newKey(serverKey)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	// Without an end (RFC 5280 §4.1.2.5), and from before there was this program: it
	// is withdrawn by taking it out of the gateway's configuration, and this
	// machine's clock may be wrong.
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	data := key.with(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err := writeFile(s.path(serverFile), data); err != nil {
		return nil, err
	}
	return data, s.drop(serverKey)
}
