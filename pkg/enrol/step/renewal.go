package step

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

const (
	// issuer is what step calls itself in tokens that it makes.
	issuer = "step-ca-client/1.0"
	// maxRenewal bounds a token that carries a chain, which is in base64 twice.
	maxRenewal = 8 << 10
	// maxChain bounds the certificates in it.
	maxChain = 4
	// maxLife is how long before its end a token may be made; step's is five minutes.
	// leeway is what clocks may differ by.
	maxLife = time.Hour
	leeway  = time.Minute
)

// renewalHeader and renewalClaims are those of the token by which step renews a
// certificate that it can not show in a handshake, because it has ended, or is not
// to (--mtls=false). It is signed with the certificate's key.
type renewalHeader struct {
	Algorithm string          `json:"alg"`
	Critical  json.RawMessage `json:"crit"`
	Chain     [][]byte        `json:"x5cInsecure"`
}

type renewalClaims struct {
	Issuer    string   `json:"iss"`
	Audience  audience `json:"aud"`
	Subject   string   `json:"sub"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	Expires   int64    `json:"exp"`
}

// An audience is a name or a list of names (RFC 7519 §4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

// renewing returns of a token the certificate that its maker has the key of and asks
// to renew, at this host and about now. Whose certificate that is, and whether it
// may be renewed, is the registrar's to say.
func renewing(jwt, host string, now time.Time) (*x509.Certificate, error) {
	parts := strings.Split(jwt, ".")
	if len(jwt) > maxRenewal || len(parts) != 3 {
		return nil, errors.New("it is not a JWT")
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return nil, errors.New("it is not a JWT")
		}
	}
	var h renewalHeader
	if err := json.Unmarshal(raw[0], &h); err != nil || h.Critical != nil || len(h.Chain) == 0 || len(h.Chain) > maxChain {
		return nil, errors.New("it carries no certificate (x5cInsecure)")
	}
	leaf, err := x509.ParseCertificate(h.Chain[0])
	if err != nil {
		return nil, errors.New("its certificate can not be read")
	}
	if key, ok := leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > ca.MaxRSA {
		return nil, errors.New("its key is too long")
	}
	if err := jws.Verify(leaf.PublicKey, h.Algorithm, []byte(parts[0]+"."+parts[1]), raw[2]); err != nil {
		return nil, errors.New("its signature does not hold")
	}
	var c renewalClaims
	if err := json.Unmarshal(raw[1], &c); err != nil {
		return nil, errors.New("its claims can not be read")
	}
	return leaf, c.check(leaf, host, now)
}

func (c *renewalClaims) check(leaf *x509.Certificate, host string, now time.Time) error {
	switch {
	case c.Issuer != issuer || c.Subject != leaf.Subject.CommonName:
		return errors.New("it is not made by step for the certificate in it")
	case len(c.Audience) != 1 || !toRenew(c.Audience[0], host):
		return errors.New("it is made for another place than this one")
	}
	begin, end := time.Unix(max(c.NotBefore, c.IssuedAt), 0), time.Unix(c.Expires, 0)
	if begin.After(now.Add(leeway)) || end.Before(now.Add(-leeway)) || end.After(now.Add(maxLife)) {
		return fmt.Errorf("its time is not now, which is %s here: look at the device's clock", now.UTC().Format(time.RFC3339))
	}
	return nil
}

// toRenew reports whether an audience is the renewal at a host. The port may be
// another, in front of a load balancer.
func toRenew(text, host string) bool {
	u, err := url.Parse(text)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return err == nil && u.Scheme == "https" && strings.EqualFold(u.Hostname(), strings.Trim(host, "[]")) && (u.Path == "/renew" || u.Path == "/1.0/renew")
}
