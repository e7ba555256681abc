package fleet

import (
	"math"
	"math/bits"
	"time"
)

// Buckets of a histogram: values below 2·steps nanoseconds have one each; above,
// each doubling is cut into as many steps, so that a value is known to 0.8 %.
const (
	stepBits = 7
	steps    = 1 << stepBits
	buckets  = (64 - stepBits + 1) * steps
)

// A histogram counts times. It is not safe for concurrent use.
type histogram struct {
	counts [buckets]int64
	n      int64
	max    time.Duration
}

// bucket returns the bucket of a value.
func bucket(v uint64) int {
	if v < 2*steps {
		return int(v)
	}
	e := bits.Len64(v) - stepBits - 1
	return e*steps + int(v>>e)
}

// top returns the largest value of a bucket.
func top(b int) uint64 {
	if b < 2*steps {
		return uint64(b)
	}
	e := b/steps - 1
	return (uint64(b-e*steps)+1)<<e - 1
}

// record counts a time; one below zero counts as zero.
func (h *histogram) record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

// add adds another's counts.
func (h *histogram) add(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// quantile returns a time that the given part of all does not exceed, 0 of none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(int64(math.Ceil(q*float64(h.n))), 1)
	var seen int64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(time.Duration(top(i)), h.max)
		}
	}
	return h.max
}

// A Spread describes many times by a few.
type Spread struct {
	N                   int64
	P50, P99, P999, Max time.Duration
}

func (h *histogram) spread() *Spread {
	return &Spread{N: h.n, P50: h.quantile(.5), P99: h.quantile(.99), P999: h.quantile(.999), Max: h.max}
}
