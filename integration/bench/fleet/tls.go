package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// patience bounds one handshake, and one request with its answer.
	patience = 30 * time.Second
	// bindAddressNoPort is IP_BIND_ADDRESS_NO_PORT of ip(7): the port is chosen
	// when the peer is known, so that one port serves for many peers.
	bindAddressNoPort = 24
	// A device's address is 127.0.x.y with x from 1 and y from 1 to hosts.
	hosts = 250
)

// client is how devices do TLS.
type client struct {
	addr    string
	base    *tls.Config
	devices []tls.Certificate // to be in turn; nil if there is one, which base has
	// trusted is the gateway's leaf once its chain was checked. The same leaf is
	// not checked again: a fleet's own work limits what it can ask for.
	trusted atomic.Pointer[[]byte]
	state   atomic.Pointer[string]
}

func newClient(p *Plan) (*client, error) {
	pem, err := os.ReadFile(p.Roots)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", p.Roots)
	}
	group, err := groupOf(p.Group)
	if err != nil {
		return nil, err
	}
	c := &client{addr: p.Addr}
	c.base = &tls.Config{
		ServerName: p.ServerName, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{group},
		InsecureSkipVerify: true, // check does it, once
		VerifyConnection:   func(st tls.ConnectionState) error { return c.check(&st, roots) },
	}
	if p.Devices != "" {
		if c.devices, err = ReadDevices(p.Devices, p.Skip+max(p.Count, 1)); err != nil {
			return nil, err
		}
		c.devices = c.devices[p.Skip:]
		return c, nil
	}
	if p.Cert != "" {
		pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err != nil {
			return nil, fmt.Errorf("load the device's certificate: %w", err)
		}
		c.base.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// groupOf returns the group of a name.
func groupOf(name string) (tls.CurveID, error) {
	for _, g := range []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.X25519MLKEM768} {
		if g.String() == name {
			return g, nil
		}
	}
	return 0, fmt.Errorf("no group %q", name)
}

// check checks the gateway's certificate, and sees what was negotiated.
func (c *client) check(st *tls.ConnectionState, roots *x509.CertPool) error {
	if len(st.PeerCertificates) == 0 {
		return errors.New("the gateway shows no certificate")
	}
	leaf := st.PeerCertificates[0]
	if t := c.trusted.Load(); t != nil && bytes.Equal(*t, leaf.Raw) {
		return nil
	}
	opts := x509.VerifyOptions{Roots: roots, DNSName: st.ServerName, Intermediates: x509.NewCertPool()}
	for _, i := range st.PeerCertificates[1:] {
		opts.Intermediates.AddCert(i)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return err
	}
	c.trusted.Store(&leaf.Raw)
	s := fmt.Sprintf("%s, %s, %s", tls.VersionName(st.Version), st.CurveID, tls.CipherSuiteName(st.CipherSuite))
	c.state.Store(&s)
	return nil
}

func (c *client) negotiated() string {
	if s := c.state.Load(); s != nil {
		return *s
	}
	return ""
}

// as returns the configuration of connection i.
func (c *client) as(i int) *tls.Config {
	if c.devices == nil {
		return c.base
	}
	conf := c.base.Clone()
	conf.Certificates = []tls.Certificate{c.devices[i%len(c.devices)]}
	return conf
}

// config returns the configuration of device i with a memory for tickets of its
// own, if wanted.
func (c *client) config(i int, resume bool) *tls.Config {
	conf := c.as(i).Clone()
	if resume {
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return conf
}

// source returns the address of device i.
func source(i int) *net.TCPAddr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+i/hosts%hosts), byte(1+i%hosts))}
}

// dial connects device i, without TLS.
func (c *client) dial(ctx context.Context, i int) (net.Conn, error) {
	d := net.Dialer{
		Timeout: patience, LocalAddr: source(i), KeepAlive: -1,
		Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) {
				failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, bindAddressNoPort, 1)
			})
			return errors.Join(err, failed)
		},
	}
	return d.DialContext(ctx, "tcp", c.addr)
}

// handshake connects device i with TLS. The deadline it sets on the connection
// is for the first request too.
func (c *client) handshake(ctx context.Context, i int, conf *tls.Config) (*tls.Conn, error) {
	raw, err := c.dial(ctx, i)
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		raw.Close()
		return nil, err
	}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// reason makes a short name of an error, without the addresses that would make
// each one another.
func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		var ne net.Error
		if errors.As(op.Err, &ne) && ne.Timeout() {
			return op.Op + ": timed out"
		}
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}
