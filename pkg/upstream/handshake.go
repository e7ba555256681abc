package upstream

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"time"
)

// Handshake sends r, which asks for another protocol, over a connection of its
// own that [Backend.Dial] returned, and reads the answer within r's Patience. If
// that is 101 the connection is in the other protocol, and first is what was read
// of it already; else resp has a body to be read, as ever.
func Handshake(up net.Conn, r *Request, resp *Response) (first []byte, err error) {
	if !r.fit() {
		return nil, errUnfit
	}
	if err := up.SetDeadline(time.Now().Add(r.Patience)); err != nil {
		return nil, err
	}
	b := r.appendHead(nil)
	if _, err := up.Write(b); err != nil {
		return nil, told(err)
	}
	c := &conn{net: up}
	header := resp.Header[:0]
	*resp = Response{Header: header, x: exchange{c: c, resp: resp, r: &Request{Method: r.Method, Context: context.Background(), Patience: r.Patience}}}
	x := &resp.x
	x.upgrade = true
	if err := x.readHead(); err != nil {
		return nil, told(err)
	}
	resp.body = x
	if resp.Status != http.StatusSwitchingProtocols {
		return nil, nil
	}
	first = bytes.Clone((*c.buf)[c.r:c.w])
	x.over = true
	c.drop()
	return first, up.SetDeadline(time.Time{})
}
