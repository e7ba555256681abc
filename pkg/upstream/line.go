package upstream

// A line is who waits, in order of arrival. Its owner's lock is held.
type line struct{ first, last *waiter }

// A waiter is a request that waits: for a connection, or for others of its device.
type waiter struct {
	// come gets what it waits for: a connection, or nil for leave to make one or to
	// go on.
	come       chan *conn
	prev, next *waiter
}

// join puts one more at the end.
func (l *line) join() *waiter {
	w := &waiter{come: make(chan *conn, 1)}
	if l.first == nil {
		l.first = w
	} else {
		l.last.next, w.prev = w, l.last
	}
	l.last = w
	return w
}

// take takes the first, or nil.
func (l *line) take() *waiter {
	w := l.first
	if w != nil {
		l.remove(w)
	}
	return w
}

// remove takes one out who is in it.
func (l *line) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
}
