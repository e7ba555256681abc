package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

const (
	scheme       = "spiffe"
	deviceKind   = "device"
	operatorKind = "operator"

	// maxTrustDomain is the longest DNS name in its usual spelling (RFC 1035
	// §2.3.4). SPIFFE allows two characters more, X.509 URI hosts do not.
	maxTrustDomain = 253
	maxLabel       = 63 // RFC 1035 §2.3.4
)

// ValidTrustDomain reports whether s can be a trust domain: a lower-case DNS
// name of letters, digits and hyphens (so without the underscores SPIFFE would
// also allow), that cannot be taken for an IP address.
func ValidTrustDomain(s string) error {
	if s == "" {
		return errors.New("trust domain is empty")
	}
	if len(s) > maxTrustDomain {
		return fmt.Errorf("trust domain is longer than %d characters", maxTrustDomain)
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if err := validLabel(l, false); err != nil {
			return fmt.Errorf("trust domain %q: %w", s, err)
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return fmt.Errorf("trust domain %q looks like an IP address: its last label is a number", s)
	}
	return nil
}

// validLabel checks one label of a DNS name. Underscores are not in host
// names by the letter of RFC 1123, but are in those of many hospital networks.
func validLabel(l string, underscore bool) error {
	if l == "" {
		return errors.New("empty label")
	}
	if len(l) > maxLabel {
		return fmt.Errorf("label longer than %d characters", maxLabel)
	}
	if l[0] == '-' || l[len(l)-1] == '-' {
		return fmt.Errorf("label %q begins or ends with a hyphen", l)
	}
	for i := 0; i < len(l); i++ {
		c := l[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' && underscore) {
			return fmt.Errorf("label %q: only lower-case letters, digits and hyphens are allowed", l)
		}
	}
	return nil
}

// serverName is a name of a server: a DNS name in lower case, or an IP address
// in its canonical form.
func serverName(s string) (dns string, ip netip.Addr, err error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return "", netip.Addr{}, fmt.Errorf("server name %q: an address in a certificate has no zone", s)
		}
		return "", a.Unmap(), nil
	}
	name := strings.ToLower(s)
	if len(name) > maxTrustDomain {
		return "", netip.Addr{}, fmt.Errorf("server name is longer than %d characters", maxTrustDomain)
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if err := validLabel(l, true); err != nil {
			return "", netip.Addr{}, fmt.Errorf("server name %q: %w", s, err)
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return "", netip.Addr{}, fmt.Errorf("server name %q is neither an IP address nor a DNS name", s)
	}
	return name, netip.Addr{}, nil
}

// DeviceURI returns a device's identity: spiffe://<trustDomain>/device/<id>.
func DeviceURI(trustDomain, id string) *url.URL { return identityURI(trustDomain, deviceKind, id) }

// OperatorURI returns an operator's identity:
// spiffe://<trustDomain>/operator/<name>.
func OperatorURI(trustDomain, name string) *url.URL {
	return identityURI(trustDomain, operatorKind, name)
}

func identityURI(trustDomain, kind, name string) *url.URL {
	return &url.URL{Scheme: scheme, Host: trustDomain, Path: "/" + kind + "/" + name}
}

// DeviceID returns the id of the device a certificate was issued to. The
// certificate's only subject alternative name must be the URI that [DeviceURI]
// makes of the trust domain and a valid id, byte for byte: no other name of
// any type, no other spelling, no query, fragment, port or user.
//
// It looks at names alone. That the certificate chains to our CA, is in its
// validity and is the registered one are the caller's checks. The certificate
// must come from x509.ParseCertificate.
func DeviceID(cert *x509.Certificate, trustDomain string) (string, error) {
	return identityOf(cert, trustDomain, deviceKind)
}

// OperatorName is to operators what [DeviceID] is to devices.
func OperatorName(cert *x509.Certificate, trustDomain string) (string, error) {
	return identityOf(cert, trustDomain, operatorKind)
}

func identityOf(cert *x509.Certificate, trustDomain, kind string) (string, error) {
	uri, err := onlyURI(cert)
	if err != nil {
		return "", err
	}
	// Errors do not repeat the URI: its bytes are the peer's.
	rest, ok := strings.CutPrefix(uri, scheme+"://")
	if !ok {
		return "", errors.New("the certificate's URI is not a spiffe:// URI")
	}
	rest, ok = strings.CutPrefix(rest, trustDomain+"/")
	if !ok || trustDomain == "" {
		return "", fmt.Errorf("the certificate's URI is not in trust domain %s", trustDomain)
	}
	name, ok := strings.CutPrefix(rest, kind+"/")
	if !ok {
		return "", fmt.Errorf("the certificate's URI names no %s", kind)
	}
	if err := device.ValidID(name); err != nil {
		return "", fmt.Errorf("the certificate's URI names no valid %s", kind)
	}
	return name, nil
}

// Tags of GeneralName (RFC 5280 §4.2.1.6).
var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	tagURI            = cbasn1.Tag(6).ContextSpecific()
)

// onlyURI returns the URI that is the certificate's only subject alternative
// name. It reads the extension itself, because crypto/x509 leaves out the types
// of names it does not know and hands out URIs in parsed form only.
func onlyURI(cert *x509.Certificate) (string, error) {
	var san []byte
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		if san != nil {
			return "", errors.New("the certificate has two subject alternative name extensions")
		}
		san = ext.Value
	}
	if san == nil {
		return "", errors.New("the certificate has no subject alternative name")
	}
	input, names := cryptobyte.String(san), cryptobyte.String(nil)
	if !input.ReadASN1(&names, cbasn1.SEQUENCE) || !input.Empty() {
		return "", errors.New("the certificate's subject alternative name is malformed")
	}
	var uri cryptobyte.String
	var tag cbasn1.Tag
	if !names.ReadAnyASN1(&uri, &tag) {
		return "", errors.New("the certificate's subject alternative name is malformed or empty")
	}
	if !names.Empty() {
		return "", errors.New("the certificate has more than one subject alternative name")
	}
	if tag != tagURI {
		return "", errors.New("the certificate's subject alternative name is not a URI")
	}
	return string(uri), nil
}
