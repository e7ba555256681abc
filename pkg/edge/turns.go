package edge

import (
	"context"
	"net/netip"
	"sync"

	"github.com/anteroom-iomt/anteroom/pkg/yield"
)

// begunMost is how many turns in a row go to handshakes that have begun while
// others wait to begin. To finish one is half done already and frees what it
// holds; but peers that send their flights a byte at a time must not come first
// for ever.
const begunMost = 8

// Turns bound how many handshakes compute at once. A fleet that comes back after
// a power cut would otherwise begin all its handshakes at the same moment: each
// takes as long as all of them together, and the requests of those who are
// connected wait among them.
//
// A turn is for computing only. It is given back while the peer is waited for,
// so that nobody can hold one by dawdling. Who waits to begin is served by
// address, one after the other: an address that connects in a loop waits for
// itself. Within an address, who came first goes first; peers that gave up
// meanwhile are passed over by whoever looks after them ([wire.Gone]), so that
// a queue that is longer than devices are patient does not serve the dead.
//
// Waiting costs a goroutine and a few words: nothing was read yet.
type turns struct {
	mu    sync.Mutex
	free  int
	begun line                 // to go on
	lines map[netip.Addr]*line // to begin, by address; none is empty
	next  *line                // the last that was served in a ring of all lines, whose next one is due
	row   int                  // turns given to begun in a row
	lull  *yield.Lull          // nil to pass a turn on at once
}

// A line is who waits, in order of arrival. Lines of addresses form a ring.
type line struct {
	from        netip.Addr
	first, last *place
	next        *line
}

// A place is one who waits.
type place struct {
	come chan struct{} // closed when the turn has come
	left bool          // it does not wait any more
	next *place
}

func newTurns(n int) *turns { return &turns{free: n, lines: map[netip.Addr]*line{}} }

// begin waits for a turn of an address. The error is the context's, and then
// there is no turn.
func (t *turns) begin(ctx context.Context, from netip.Addr) error {
	t.mu.Lock()
	if t.free > 0 && t.lull == nil {
		t.free--
		t.mu.Unlock()
		return nil
	}
	l := t.lines[from]
	if l == nil {
		l = &line{from: from}
		t.lines[from] = l
		if t.next == nil {
			l.next = l
		} else {
			l.next, t.next.next = t.next.next, l
		}
		// A new address is the last in the ring: everybody else is due before it.
		t.next = l
	}
	p := l.add()
	t.offer()
	t.mu.Unlock()
	return t.wait(ctx, p)
}

// resume waits for a turn of a handshake that has begun.
func (t *turns) resume(ctx context.Context) error {
	t.mu.Lock()
	if t.free > 0 && t.lull == nil {
		t.free--
		t.mu.Unlock()
		return nil
	}
	p := t.begun.add()
	t.offer()
	t.mu.Unlock()
	return t.wait(ctx, p)
}

// offer passes on a turn that nobody has, after a lull too: on one core a turn is
// often free when somebody comes, because whoever had it waits for a peer, and
// the crowd would stand in the scheduler's queue instead of ours.
func (t *turns) offer() {
	if t.free == 0 {
		return
	}
	t.free--
	if t.lull == nil || !t.lull.Ask() {
		t.pass()
	}
}

func (t *turns) wait(ctx context.Context, p *place) error {
	select {
	case <-p.come:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-p.come:
		t.pass() // it came too late
	default:
		p.left = true
	}
	return ctx.Err()
}

// end gives a turn back. If somebody waits for it, the network comes first.
func (t *turns) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lull != nil && (t.begun.first != nil || t.next != nil) && t.lull.Ask() {
		return
	}
	t.pass()
}

// run passes turns on after a lull until close, if there are lulls.
func (t *turns) run() {
	if t.lull == nil {
		return
	}
	t.lull.Run(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.pass()
	})
}

// close ends run. Turns go on to be passed, at once.
func (t *turns) close() {
	if t.lull != nil {
		t.lull.Close()
	}
}

// pass gives a turn to whoever is due.
func (t *turns) pass() {
	for {
		var p *place
		switch {
		case t.begun.first != nil && (t.row < begunMost || t.next == nil):
			t.row++
			p = t.begun.take()
		case t.next != nil:
			t.row = 0
			p = t.due()
		default:
			t.free++
			return
		}
		if !p.left {
			close(p.come)
			return
		}
	}
}

// due takes the first of the line that is due, and the line out of the ring if
// nobody is left in it.
func (t *turns) due() *place {
	l := t.next.next
	p := l.take()
	if l.first != nil {
		t.next = l
		return p
	}
	delete(t.lines, l.from)
	if l == t.next {
		t.next = nil
	} else {
		t.next.next = l.next
	}
	return p
}

func (l *line) add() *place {
	p := &place{come: make(chan struct{})}
	if l.first == nil {
		l.first = p
	} else {
		l.last.next = p
	}
	l.last = p
	return p
}

func (l *line) take() *place {
	p := l.first
	l.first = p.next
	if l.first == nil {
		l.last = nil
	}
	return p
}
