package edge

import (
	"container/heap"
	"math"
	"time"
)

// never is when the timer of an empty table comes.
const never = time.Duration(math.MaxInt64)

// lookAnew is how long the timer waits at most. It runs on the monotonic clock, and a
// certificate's end is a wall-clock time: a clock that was wrong when the timer was set,
// or was stepped since, must not have all sessions live on for as much.
const lookAnew = time.Minute

// ends is the sessions in the order in which their certificates end, as a
// [heap.Interface]. One timer waits for the first of them: one for each takes two
// hundred bytes of each.
type ends []*entry

func (h ends) Len() int           { return len(h) }
func (h ends) Less(i, j int) bool { return h[i].NotAfter.Before(h[j].NotAfter) }

func (h ends) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements [heap.Interface].
func (h *ends) Push(x any) {
	e := x.(*entry)
	e.at = len(*h)
	*h = append(*h, e)
}

// Pop implements [heap.Interface].
func (h *ends) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.at = -1
	return e
}

// expire ends the sessions whose certificates have ended, and sets the timer for
// the next one.
func (t *Sessions) expire() {
	t.mu.Lock()
	var over []*entry
	now := t.now()
	for len(t.ends) > 0 && !now.Before(t.ends[0].NotAfter) {
		over = append(over, heap.Pop(&t.ends).(*entry))
	}
	t.await(now)
	t.mu.Unlock()
	for _, e := range over {
		e.End(errExpired)
	}
}

// await sets the timer for the first end there is. The caller holds mu.
func (t *Sessions) await(now time.Time) {
	if len(t.ends) > 0 {
		t.next.Reset(min(t.ends[0].NotAfter.Sub(now), lookAnew))
	}
}
