package revocation

import (
	"net"
	"net/netip"
	"sync"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// A listener takes so many connections, and so many of one address. Others are
// closed at once.
type listener struct {
	net.Listener
	limits config.RevocationLimits
	same   func(netip.Addr) netip.Addr

	mu   sync.Mutex
	all  int
	each map[netip.Addr]int
}

func newListener(ln net.Listener, limits config.RevocationLimits, same func(netip.Addr) netip.Addr) *listener {
	return &listener{Listener: ln, limits: limits, same: same, each: map[netip.Addr]int{}}
}

func (l *listener) connections() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.all)
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil {
			_ = c.Close()
			continue
		}
		addr := l.same(from.Addr())
		if !l.enter(addr) {
			_ = c.Close()
			continue
		}
		return &conn{Conn: c, leave: sync.OnceFunc(func() { l.leave(addr) })}, nil
	}
}

func (l *listener) enter(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.limits.Connections || l.each[addr] >= l.limits.PerAddress {
		return false
	}
	l.all++
	l.each[addr]++
	return true
}

func (l *listener) leave(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.each[addr]--; l.each[addr] == 0 {
		delete(l.each, addr)
	}
}

// A conn is a connection that is counted until it is closed.
type conn struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}
