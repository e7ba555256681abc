package acme

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

const (
	// mostAddresses bounds the addresses of a name that are tried.
	mostAddresses = 4
	// dialTime bounds a connection to one of them, askTime an answer.
	dialTime = 3 * time.Second
	askTime  = 5 * time.Second
	// maxAnswer bounds the body of an answer, maxAnswerHead its head; the key
	// authorization takes 96 bytes of the body.
	maxAnswer     = 1 << 10
	maxAnswerHead = 8 << 10
)

// challengeFault says what a challenge failed of. It tells nothing of what the
// other side said: a challenge is no way to read what the gateway can reach.
func challengeFault(kind, format string, args ...any) *fault {
	return faulty(kind, http.StatusForbidden, enrol.BadProof, format, args...)
}

// where returns the addresses at which a server is looked for: the one that is
// configured, or those of the name that lie in the networks that are.
func (s *server) where(ctx context.Context, c *config.ACMEServer, name string) ([]netip.Addr, *fault) {
	if c.Address != "" {
		a, err := netip.ParseAddr(c.Address)
		if err != nil {
			return nil, ours(err) // checked when the configuration was read
		}
		return []netip.Addr{a}, nil
	}
	all, err := s.lookup(ctx, name+".") // no search list
	if err != nil {
		return nil, challengeFault(dnsFailed, "the name can not be looked up")
	}
	var out []netip.Addr
	for _, a := range all {
		a = a.Unmap()
		if allowed(c, a) && len(out) < mostAddresses {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, challengeFault(dnsFailed, "the name leads nowhere in the networks that the configuration has for this server")
	}
	return out, nil
}

// allowed reports whether an address that DNS gave may be connected to.
func allowed(c *config.ACMEServer, a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return false
	}
	return slices.ContainsFunc(c.Networks, func(n string) bool {
		p, err := netip.ParsePrefix(n)
		return err == nil && p.Contains(a)
	})
}

// connect connects to the server, at the first address that answers.
func (s *server) connect(ctx context.Context, c *config.ACMEServer, name string, port int) (net.Conn, *fault) {
	addrs, f := s.where(ctx, c, name)
	if f != nil {
		return nil, f
	}
	d := &net.Dialer{Timeout: dialTime}
	for _, a := range addrs {
		conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, uint16(port)).String())
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(askTime))
			return conn, nil
		}
	}
	return nil, challengeFault(connection, "nobody answers on port %d of the address of %s", port, name)
}

// tryHTTP is RFC 8555 §8.3. One request is made on one connection; a redirection is
// no answer.
func (s *server) tryHTTP(ctx context.Context, c *config.ACMEServer, name, token, want string) *fault {
	conn, f := s.connect(ctx, c, name, c.HTTPPort)
	if f != nil {
		return f
	}
	defer conn.Close()
	host := name
	if c.HTTPPort != 80 {
		host = net.JoinHostPort(name, strconv.Itoa(c.HTTPPort))
	}
	tr := &http.Transport{
		DialContext:       onlyOnce(conn),
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxAnswerHead,
	}
	defer tr.CloseIdleConnections()
	u := url.URL{Scheme: "http", Host: host, Path: "/.well-known/acme-challenge/" + token}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return ours(err)
	}
	req.Header.Set("User-Agent", "anteroom")
	resp, err := tr.RoundTrip(req) // no client: nothing is followed
	if err != nil {
		return challengeFault(connection, "%s gave no answer by HTTP on port %d", name, c.HTTPPort)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return challengeFault(incorrectResponse, "%s answered with status %d", name, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		return challengeFault(incorrectResponse, "the answer of %s was cut off, or larger than %d bytes", name, maxAnswer)
	}
	if string(bytes.TrimRight(body, " \t\r\n")) != want {
		return challengeFault(incorrectResponse, "%s answered with something else than the key authorization", name)
	}
	return nil
}

// onlyOnce gives a connection out once.
func onlyOnce(conn net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		if conn == nil {
			return nil, errors.New("there is one connection")
		}
		c := conn
		conn = nil
		return c, nil
	}
}

// oidACMEIdentifier is id-pe-acmeIdentifier (RFC 8737 §3).
var oidACMEIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

// tryTLS is RFC 8737 §3.
func (s *server) tryTLS(ctx context.Context, c *config.ACMEServer, name, want string) *fault {
	conn, f := s.connect(ctx, c, name, c.TLSPort)
	if f != nil {
		return f
	}
	defer conn.Close()
	cert, err := s.show(ctx, conn, name)
	if err != nil {
		return challengeFault(tlsFailed, "%s showed no certificate for acme-tls/1 on port %d", name, c.TLSPort)
	}
	if len(cert.DNSNames) != 1 || cert.DNSNames[0] != name || len(cert.IPAddresses)+len(cert.EmailAddresses)+len(cert.URIs) > 0 {
		return challengeFault(incorrectResponse, "the certificate of %s is not for this one name", name)
	}
	sum := sha256.Sum256([]byte(want))
	answers := 0
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidACMEIdentifier) {
			continue
		}
		var got []byte
		rest, err := asn1.Unmarshal(ext.Value, &got)
		if err != nil || len(rest) > 0 || !ext.Critical || !bytes.Equal(got, sum[:]) {
			return challengeFault(incorrectResponse, "the certificate of %s does not hold the key authorization", name)
		}
		answers++
	}
	if answers != 1 {
		return challengeFault(incorrectResponse, "the certificate of %s does not hold the key authorization", name)
	}
	return nil
}

// verifyAt verifies a certificate of hardware, for whatever use, up to roots.
func verifyAt(now time.Time, leaf *x509.Certificate, rest []*x509.Certificate, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, c := range rest {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}
