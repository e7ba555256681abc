package visitor

import (
	"net"
	"net/netip"
	"sync"
)

// A Listener takes so many connections, and so many of one address. Others are
// closed at once.
type Listener struct {
	net.Listener
	most, perAddress int
	same             func(netip.Addr) netip.Addr

	mu   sync.Mutex
	all  int
	each map[netip.Addr]int
}

// NewListener bounds a listener. same says what counts as one address.
func NewListener(ln net.Listener, most, perAddress int, same func(netip.Addr) netip.Addr) *Listener {
	return &Listener{Listener: ln, most: most, perAddress: perAddress, same: same, each: map[netip.Addr]int{}}
}

// Connections returns how many connections are open.
func (l *Listener) Connections() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.all)
}

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
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

func (l *Listener) enter(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.most || l.each[addr] >= l.perAddress {
		return false
	}
	l.all++
	l.each[addr]++
	return true
}

func (l *Listener) leave(addr netip.Addr) {
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
