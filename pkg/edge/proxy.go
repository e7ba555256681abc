package edge

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// proxyHeaderMax bounds what is read for one PROXY header: the fixed 16 bytes
// and the largest body we care for. Real headers with TLVs stay far below it.
const proxyHeaderMax = 4096

// errProxy says that a named load balancer did not begin with a PROXY header.
var errProxy = errors.New("no valid PROXY protocol version 2 header")

// parsePrefixes reads addresses and CIDR ranges.
func parsePrefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a CIDR range", s)
		}
		a = a.Unmap()
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out, nil
}

// contains reports whether one of the prefixes holds the address.
func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addrPort returns the address of a TCP peer, IPv4 in its own form.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// readProxyHeader reads the version 2 header (PROXY protocol specification,
// section 2.2) a named load balancer must send first, and returns the
// connection without it and the address it names. A LOCAL command keeps the
// connection's own address. Version 1 is refused: its text form has no
// checksum and devices could be taught to write it.
func readProxyHeader(conn net.Conn, deadline time.Time) (net.Conn, netip.AddrPort, error) {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return nil, netip.AddrPort{}, err
	}
	br := bufio.NewReaderSize(conn, proxyHeaderMax)
	h, err := proxyproto.Read(br)
	if err != nil || h.Version != 2 {
		return nil, netip.AddrPort{}, errProxy
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, netip.AddrPort{}, err
	}
	remote := addrPort(conn.RemoteAddr())
	if h.Command == proxyproto.PROXY {
		src, ok := h.SourceAddr.(*net.TCPAddr)
		if !ok {
			return nil, netip.AddrPort{}, errProxy
		}
		remote = addrPort(src)
		if !remote.IsValid() {
			return nil, netip.AddrPort{}, errProxy
		}
	}
	if n := br.Buffered(); n > 0 {
		rest, err := br.Peek(n)
		if err != nil {
			return nil, netip.AddrPort{}, err
		}
		conn = &prefixedConn{Conn: conn, rest: rest}
	}
	return conn, remote, nil
}

// prefixedConn gives back bytes that were read past a PROXY header.
type prefixedConn struct {
	net.Conn
	rest []byte
}

func (c *prefixedConn) Read(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Buffered reports whether anything was read past the header.
func (c *prefixedConn) Buffered() bool { return len(c.rest) > 0 }
