package store

import (
	"context"
	"net"
	"time"
)

const (
	// Small is how large a message may be that every connection may hold at once.
	Small = 4 << 10
	// largeTime is how long a larger one may be on its way: 1 MiB at the pace of a
	// serial line that somebody has put behind a network's socket.
	largeTime = 5 * time.Minute
)

// A Room is what one connection of the device's may hold of memory. The box has
// little: of messages that are not small the port holds one at a time, and who sends
// another waits, as TCP makes it. A nil Room has room for everything.
type Room struct {
	ctx   context.Context
	conn  net.Conn
	large chan struct{} // the port's: holds one while somebody has a large message
	held  bool
}

// Room returns that of a connection.
func (p *Port[M]) Room(ctx context.Context, conn net.Conn) *Room {
	return &Room{ctx: ctx, conn: conn, large: p.large}
}

// Take waits until there is room for a message of n bytes, before any is made. The
// rest of the message has to come in a bounded time then.
func (r *Room) Take(n int) error {
	if r == nil || r.held || n <= Small {
		return nil
	}
	select {
	case r.large <- struct{}{}:
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	r.held = true
	return r.conn.SetReadDeadline(time.Now().Add(largeTime))
}

// Give gives the room back, when the message is not held any more.
func (r *Room) Give() {
	if r.held {
		r.held = false
		<-r.large
		_ = r.conn.SetReadDeadline(time.Time{})
	}
}
