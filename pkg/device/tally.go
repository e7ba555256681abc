package device

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// A tally counts devices as they change, so that counting them does not take a
// walk through all: metrics are read every few seconds, of a million devices too.
type tally struct {
	mu       sync.Mutex
	statuses map[Status]int
	// ends holds when the last certificates of active devices end: the hour, since
	// 1970, and the seconds in it. Hours are few, and what is asked for reaches into
	// one of them at most; two bytes a device are all that it takes.
	ends map[int64][]uint16
}

const hour = 3600

func newTally() *tally { return &tally{statuses: map[Status]int{}, ends: map[int64][]uint16{}} }

// add counts a record.
func (t *tally) add(r *Record) {
	t.statuses[r.Status]++
	if at, sec, ok := r.end(); ok {
		t.ends[at] = append(t.ends[at], sec)
	}
}

// replace counts a record in place of another, which is nil for a new device.
func (t *tally) replace(old, r *Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old != nil {
		t.remove(old)
	}
	t.add(r)
}

// remove takes back what add counted. Should it never have been counted, the counts
// stay as they are: they are for looking at, and nobody is kept from revoking a
// device because they are wrong.
func (t *tally) remove(r *Record) {
	if t.statuses[r.Status]--; t.statuses[r.Status] <= 0 {
		delete(t.statuses, r.Status)
	}
	at, sec, ok := r.end()
	if !ok {
		return
	}
	in := t.ends[at]
	i, last := slices.Index(in, sec), len(in)-1
	if i < 0 {
		return
	}
	in[i] = in[last]
	if in = in[:last]; last == 0 {
		delete(t.ends, at)
		return
	}
	t.ends[at] = in
}

// end returns when the last certificate of an active device ends; a device in
// another status, or without a certificate, has no end.
func (r *Record) end() (at int64, sec uint16, ok bool) {
	t := r.Expires()
	if r.Status != Active || t.IsZero() {
		return 0, 0, false
	}
	at, sec = split(t)
	return at, sec, true
}

func split(t time.Time) (at int64, sec uint16) {
	s := t.Unix()
	in := (s%hour + hour) % hour
	return (s - in) / hour, uint16(in)
}

// Counts returns how many devices have each status.
func (g *Registry) Counts() map[Status]int {
	t := g.index().tally
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.statuses)
}

// Ending returns, for each of some moments, how many active devices' last
// certificates end by then, those that have ended included. It counts by the
// second, as certificates do.
func (g *Registry) Ending(by ...time.Time) []int {
	t, out := g.index().tally, make([]int, len(by))
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, moment := range by {
		last, sec := split(moment)
		for at, in := range t.ends {
			if at < last {
				out[i] += len(in)
			}
		}
		for _, s := range t.ends[last] {
			if s <= sec {
				out[i]++
			}
		}
	}
	return out
}
