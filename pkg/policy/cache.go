package policy

import (
	"bytes"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// Limits of a set's cache of decisions.
const (
	// DefaultCacheEntries bounds how many decisions a set remembers: what a
	// hundred thousand devices ask, each for itself, because the shipped set reads
	// a device's id. The empty table takes two megabytes.
	DefaultCacheEntries = 1 << 18
	// maxKey bounds what a question may weigh to be remembered; the shipped set
	// takes about 200 bytes of one. A larger one is evaluated each time.
	maxKey = 2 << 10
	// maxCacheBytes bounds keys and answers together; a hundred thousand of the
	// shipped set take half of it.
	maxCacheBytes = 128 << 20
	// sweepMost bounds how many places are looked at to make room for one answer.
	sweepMost = 64
	// entryOverhead is what an entry costs beside its key and sentences.
	entryOverhead = 256
	// ways is how many places a question may take in the table. More waste less
	// of it, and cost more to look through.
	ways = 4
	// tallies spreads the counts over cache lines, so that cores that only read
	// decisions do not wait for each other.
	tallies = 64
)

// A cache remembers decisions of one set. It is exact: a decision is found only
// by a question that is equal in everything the rules can read, as bytes, not by
// its hash. It belongs to its set and goes when the set goes, so that no answer
// outlives its rules, its data, or the record of the device it was about: what
// the rules can read of a record is part of the question.
//
// Any number of goroutines may use it. Reading takes no lock.
type cache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[entry] // ways to each bucket
	mask  uint64
	keys  sync.Pool // of *keyWriter

	most  int64 // bytes
	size  atomic.Int64
	count atomic.Int64  // places taken
	hand  atomic.Uint64 // where the last sweep ended
	tally [tallies]struct {
		hits, misses, evicted atomic.Uint64
		_                     [40]byte // fills a cache line
	}
}

// An entry never changes but for used.
type entry struct {
	hash     uint64
	key      []byte
	decision Decision
	size     int64
	used     atomic.Bool // since it was last passed over for eviction
}

// newCache returns a cache of at least n entries, or nil for none.
func newCache(n int) *cache {
	if n <= 0 {
		return nil
	}
	slots := ways
	for slots < n {
		slots *= 2
	}
	c := &cache{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[entry], slots), mask: uint64(slots/ways - 1), most: maxCacheBytes}
	devices := &deviceKeys{seed: maphash.MakeSeed()}
	c.keys.New = func() any { return &keyWriter{b: make([]byte, 0, maxKey), devices: devices} }
	return c
}

// A question as a key, until release.
type asked struct {
	w    *keyWriter
	hash uint64
}

// ask writes q's key; ok is false if it is too large to be remembered.
func (c *cache) ask(s *Set, q *Question) (a asked, ok bool) {
	w := c.keys.Get().(*keyWriter)
	w.b = w.b[:0]
	facts{out: w, loc: s.opt.Location, key: w}.write(q, s.reach.input)
	if len(w.b) > maxKey {
		// A buffer that has grown is not kept.
		return asked{}, false
	}
	return asked{w, maphash.Bytes(c.seed, w.b)}, true
}

func (c *cache) release(a asked) { c.keys.Put(a.w) }

func (c *cache) bucket(hash uint64) []atomic.Pointer[entry] {
	i := (hash & c.mask) * ways
	return c.slots[i : i+ways]
}

// find returns the decision on a question that was asked before.
func (c *cache) find(a asked) (Decision, bool) {
	t := &c.tally[a.hash>>58]
	b := c.bucket(a.hash)
	for i := range b {
		e := b[i].Load()
		if e != nil && e.hash == a.hash && bytes.Equal(e.key, a.w.b) {
			if !e.used.Load() {
				e.used.Store(true)
			}
			t.hits.Add(1)
			return e.decision, true
		}
	}
	t.misses.Add(1)
	return Decision{}, false
}

// put remembers a decision. Two goroutines may both put an answer to one
// question; the answers are equal, and one of them stays.
func (c *cache) put(a asked, d Decision) {
	e := &entry{hash: a.hash, key: bytes.Clone(a.w.b), decision: d, size: entryOverhead + int64(len(a.w.b))}
	for _, s := range d.Reasons {
		e.size += int64(len(s))
	}
	for _, s := range d.Denials {
		e.size += int64(len(s))
	}
	b := c.bucket(a.hash)
	at := c.victim(b)
	old := b[at].Load()
	grow := e.size
	if old != nil {
		grow -= old.size
	}
	if c.size.Load()+grow > c.most && !c.sweep(grow) || !b[at].CompareAndSwap(old, e) {
		return // full, or another goroutine was there first
	}
	c.size.Add(grow)
	if old == nil {
		c.count.Add(1)
	} else {
		c.tally[a.hash>>58].evicted.Add(1)
	}
}

// victim returns the place to write to: an empty one, else the first that was
// not used since it was last passed over.
func (c *cache) victim(b []atomic.Pointer[entry]) int {
	for i := range b {
		if b[i].Load() == nil {
			return i
		}
	}
	for i := range b {
		if e := b[i].Load(); e != nil && !e.used.Swap(false) {
			return i
		}
	}
	return 0
}

// sweep makes room for an answer of so many bytes: it goes on from where the last
// one ended, and takes away what was not used since it last came by. It reports
// whether there is room now. Without it a cache full of large answers would stay
// as it is, whatever is asked later.
func (c *cache) sweep(grow int64) bool {
	for range sweepMost {
		at := &c.slots[c.hand.Add(1)%uint64(len(c.slots))]
		e := at.Load()
		if e == nil || e.used.Swap(false) || !at.CompareAndSwap(e, nil) {
			continue
		}
		c.tally[e.hash>>58].evicted.Add(1)
		c.count.Add(-1)
		if c.size.Add(-e.size)+grow <= c.most {
			return true
		}
	}
	return c.size.Load()+grow <= c.most
}

// CacheStats counts what became of questions since the set was loaded.
type CacheStats struct {
	Hits      uint64 `json:"hits"`
	Misses    uint64 `json:"misses"`
	Evictions uint64 `json:"evictions"`
	Entries   int    `json:"entries"` // now
	Bytes     int64  `json:"bytes"`   // now, about
	Limit     int    `json:"limit"`   // entries there is room for; 0 if nothing is remembered
}

// CacheStats returns the counts of the set's cache of decisions.
func (s *Set) CacheStats() CacheStats {
	c := s.cache
	if c == nil {
		return CacheStats{}
	}
	st := CacheStats{Entries: int(c.count.Load()), Bytes: c.size.Load(), Limit: len(c.slots)}
	for i := range c.tally {
		st.Hits += c.tally[i].hits.Load()
		st.Misses += c.tally[i].misses.Load()
		st.Evictions += c.tally[i].evicted.Load()
	}
	return st
}
