package upstream

import (
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"
)

// watchedConn is a connection to a backend, below its TLS. It limits how long one
// write may take, and knows whether anything arrived since a request was sent.
//
// An answer of which nothing arrived since then was there before: the backend
// had sent more than its last answer was long. The transport closes such a
// connection when it finds it idle, but a request that takes it at once is given
// what was left over for an answer, and every later one the answer of the
// request before it, which is of another device.
type watchedConn struct {
	net.Conn
	limit time.Duration
	phase atomic.Uint32
}

// Phases of a connection that carries one request after another.
const (
	taken    = iota // a request has the connection
	sent            // and some of it was written,
	answered        // and after that something arrived.
)

func (c *watchedConn) Write(p []byte) (int, error) {
	c.phase.CompareAndSwap(taken, sent)
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.phase.CompareAndSwap(sent, answered)
	}
	return n, err
}

// watched returns what the transport's connection is made over.
func watched(conn net.Conn) *watchedConn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	w, _ := conn.(*watchedConn)
	return w
}
