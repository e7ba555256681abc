package ca

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// A Profile is a kind of certificate.
type Profile uint8

// The profiles. What each contains is documented in certs/README.md.
const (
	Device   Profile = iota + 1 // spiffe://<trust domain>/device/<id>, client authentication
	Operator                    // spiffe://<trust domain>/operator/<name>, client authentication
	Server                      // DNS names and IP addresses, server authentication
)

func (p Profile) String() string {
	switch p {
	case Device:
		return "device"
	case Operator:
		return "operator"
	case Server:
		return "server"
	}
	return fmt.Sprintf("profile(%d)", uint8(p))
}

// maxNames is the most names a server certificate may carry. A listener has a
// handful; each costs its bytes in every full handshake.
const maxNames = 100

// maxCommonName is ub-common-name of RFC 5280 appendix A.
const maxCommonName = 64

// content is what the certificate of one request contains. The template is
// filled from it, and the result is held against it.
type content struct {
	name            string // common name; "" for none
	organisation    string
	uri             *url.URL // device and operator
	dns             []string // server
	ips             []net.IP
	extKeyUsage     x509.ExtKeyUsage
	keyEncipherment bool
}

// contentOf says what a certificate for the request and key will contain.
func (a *Authority) contentOf(r *Request, key any) (*content, error) {
	c := &content{organisation: a.organisation, extKeyUsage: x509.ExtKeyUsageClientAuth}
	switch r.Profile {
	case Device, Operator:
		if len(r.Names) != 0 {
			return nil, fmt.Errorf("a %s certificate has no names but its identity", r.Profile)
		}
		c.name, c.uri = r.ID, DeviceURI(a.trustDomain, r.ID)
		err := device.ValidID(r.ID)
		if r.Profile == Operator {
			c.uri = OperatorURI(a.trustDomain, r.ID)
			if err != nil {
				err = fmt.Errorf("an operator's name follows the rule of device ids: %w", err)
			}
		}
		if err != nil {
			return nil, err
		}
	case Server:
		if r.ID != "" {
			return nil, errors.New("a server certificate has names and no id")
		}
		if err := c.setNames(r.Names); err != nil {
			return nil, err
		}
		c.extKeyUsage = x509.ExtKeyUsageServerAuth
		// TLS 1.2 key exchange by RSA encryption, which old devices may need. It
		// is the server's key that is encrypted to, never the client's.
		_, c.keyEncipherment = key.(*rsa.PublicKey)
	default:
		return nil, fmt.Errorf("no such profile: %v", r.Profile)
	}
	return c, nil
}

func (c *content) setNames(names []string) error {
	if len(names) == 0 {
		return errors.New("a server certificate needs a name")
	}
	if len(names) > maxNames {
		return fmt.Errorf("a server certificate has at most %d names", maxNames)
	}
	for i, n := range names {
		dns, ip, err := serverName(n)
		if err != nil {
			return err
		}
		if dns == "" {
			if !slices.ContainsFunc(c.ips, net.IP(ip.AsSlice()).Equal) {
				c.ips = append(c.ips, ip.AsSlice())
			}
			dns = ip.String()
		} else if !slices.Contains(c.dns, dns) {
			c.dns = append(c.dns, dns)
		}
		if i == 0 && len(dns) <= maxCommonName {
			c.name = dns
		}
	}
	return nil
}

// check refuses an unsigned certificate that is not what the profile promises,
// however the template came to it.
func (c *content) check(cert *x509.Certificate) error {
	usage := x509.KeyUsageDigitalSignature
	if c.keyEncipherment {
		usage |= x509.KeyUsageKeyEncipherment
	}
	subject := pkix.Name{CommonName: c.name, Organization: []string{c.organisation}}
	switch {
	case len(cert.RawSubject) != 0 || cert.Subject.String() != subject.String():
		return errors.New("its subject is not the profile's")
	case !c.sameNames(cert):
		return errors.New("its names are not the profile's")
	case len(cert.EmailAddresses) != 0:
		return errors.New("it has an e-mail address")
	case len(cert.ExtraExtensions) != 0:
		return errors.New("it has extensions the profile does not know")
	case cert.IsCA || !cert.BasicConstraintsValid || cert.MaxPathLen != 0:
		return errors.New("its basic constraints are not the profile's")
	case cert.KeyUsage != usage:
		return errors.New("its key usage is not the profile's")
	case len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != c.extKeyUsage || len(cert.UnknownExtKeyUsage) != 0:
		return errors.New("its extended key usage is not the profile's")
	case cert.SignatureAlgorithm != x509.UnknownSignatureAlgorithm:
		return errors.New("it chooses its signature algorithm")
	}
	return nil
}

func (c *content) sameNames(cert *x509.Certificate) bool {
	if c.uri == nil {
		if len(cert.URIs) != 0 {
			return false
		}
	} else if len(cert.URIs) != 1 || cert.URIs[0].String() != c.uri.String() {
		return false
	}
	return slices.Equal(cert.DNSNames, c.dns) &&
		slices.EqualFunc(cert.IPAddresses, c.ips, net.IP.Equal)
}

// keyID is the identifier of a key given as SubjectPublicKeyInfo: the first 160
// bits of SHA-256 over the public key (RFC 7093 §2, method 1). SHA-1, the usual
// choice, is no secret's protection here but stops programs in FIPS-only mode.
func keyID(spki []byte) ([]byte, error) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &info); err != nil || len(rest) != 0 {
		return nil, errors.New("malformed public key")
	}
	sum := sha256.Sum256(info.PublicKey.RightAlign())
	return bytes.Clone(sum[:20]), nil
}
