package identity

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

// roots returns what the enrolment listener is checked against before there is a
// certificate.
func (c *Client) roots(ctx context.Context) (*x509.CertPool, error) {
	if c.Settings.CAFile != "" {
		return readRoots(c.Settings.CAFile)
	}
	if c.Settings.Root == "" {
		return nil, errors.New("nothing says how to know the gateway: set enrolment.root to the fingerprint that anteroom device token shows, or enrolment.ca_file")
	}
	want, err := settings.Fingerprint(c.Settings.Root)
	if err != nil {
		return nil, err
	}
	// Whoever answers is not known yet, and nothing is sent but the question.
	status, _, answer, err := c.do(ctx, http.MethodGet, "/roots.pem", nil, unverified())
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s does not say what its root is (status %d): is it an enrolment listener?", c.Settings.URL, status)
	}
	certs, err := certificates(answer)
	if err != nil {
		return nil, fmt.Errorf("the root of %s: %w", c.Settings.URL, err)
	}
	for _, root := range certs {
		if sha256.Sum256(root.Raw) == want {
			pool := x509.NewCertPool()
			pool.AddCert(root)
			return pool, nil
		}
	}
	return nil, fmt.Errorf("%s has another root than the one with the fingerprint %s: this is not the gateway the token is from, or somebody stands between", c.Settings.URL, c.Settings.Root)
}

// unverified is how the enrolment listener is asked for its root, which is then
// told by its fingerprint. No other question is asked in this way.
func unverified() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: suites, InsecureSkipVerify: true}
}
