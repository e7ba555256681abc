package queue

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// seenTime and seenMost bound what is remembered of messages for senders that
	// send again: they do within seconds or minutes, a handful at most.
	seenTime = time.Hour
	seenMost = 256
	// copyMost is how long a message may be to be written together with its head.
	copyMost = 4 << 10
	// rewriteFrom is how much of the file was taken before it is written anew.
	rewriteFrom = 1 << 20
	// maxMessage bounds what is made room for when a record is read.
	maxMessage = 64 << 20
)

// Why a message is not taken.
var (
	// ErrFull says that there is no room, by the limit or on the disk.
	ErrFull = errors.New("the store is full")
	// ErrOld says that the oldest message waits for longer than the limit.
	ErrOld = errors.New("the oldest message in the store has waited for too long")
	// ErrSeen says that the same message was taken a moment ago. It is as good as
	// taken.
	ErrSeen = errors.New("the message is in the store already")
)

// Limits bound a queue. Every one is required.
type Limits struct {
	Bytes   int64         // of messages that wait, and what is written beside them
	Age     time.Duration // of the oldest
	Message int64         // bytes of one
}

// A Digest tells messages apart.
type Digest [16]byte

// DigestOf returns a message's digest.
func DigestOf(body []byte) Digest {
	sum := sha256.Sum256(body)
	return Digest(sum[:16])
}

// Stats are what a queue holds.
type Stats struct {
	Messages int       `json:"messages"`
	Bytes    int64     `json:"bytes"`
	Oldest   time.Time `json:"oldest,omitzero"`
}

// Counts are what a port did with messages since it was opened.
type Counts struct {
	Delivered uint64 `json:"delivered"`         // and acknowledged
	Again     uint64 `json:"again"`             // sent once more, because there was no answer
	SetAside  uint64 `json:"set_aside"`         // rejected by the receiver, and kept
	Refused   uint64 `json:"refused"`           // not taken from the device, which knows
	Dropped   uint64 `json:"dropped,omitempty"` // of those that nobody is promised (MQTT's QoS 0)
	Expired   uint64 `json:"expired,omitempty"` // of those that said how long they are wanted (MQTT 5)
}

// entry is the message that has waited longest, as it is known without its text.
type entry struct {
	seq  uint64
	at   time.Time
	off  int64 // of its record
	size int64 // and of that

	begun bool
	since time.Time // from when its age counts; zero while no clock that was right saw it
}

// firstYear is when this program was written: a clock that says less is wrong, and
// what it said when a message came is no measure of how long that has waited.
const firstYear = 2026

func right(at time.Time) bool { return at.Year() >= firstYear }

// seen is a message that was put.
type seen struct {
	digest Digest
	at     time.Time
}

// A Queue is messages on disk. See the package's documentation.
type Queue struct {
	path   string
	limits Limits

	mu      sync.Mutex
	f       file
	size    int64 // of the file, up to the end of its last whole record
	next    uint64
	waiting int    // how many messages; of a full disk of them nothing else is held
	head    int64  // all before it were taken
	first   *entry // if it was looked for since the last was taken
	bytes   int64  // of the records that wait
	seen    []seen
	broken  error
	came    chan struct{}
	cut     int64
}

// file is what is used of *os.File, so that tests can have one that fails.
type file interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(int64) error
	Close() error
}

// Open opens the queue in a file, which is made if it is not there.
func Open(path string, limits Limits) (*Queue, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	q := &Queue{path: path, limits: limits, f: f, next: 1, came: make(chan struct{}, 1)}
	if err := q.load(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	return q, nil
}

// Cut returns how many bytes at the end were no whole record when the queue was
// opened. They are beside it, in a file with .cut at its end.
func (q *Queue) Cut() int64 { return q.cut }

// Came receives after a message was put, and once after opening if there was one.
func (q *Queue) Came() <-chan struct{} { return q.came }

func (q *Queue) tell() {
	select {
	case q.came <- struct{}{}:
	default:
	}
}

// Stats returns what waits.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	st := Stats{Messages: q.waiting, Bytes: q.bytes}
	if e, err := q.front(); err == nil && e != nil {
		st.Oldest = e.at.UTC()
	}
	return st
}

// front returns the message that has waited longest, or nil; q.mu is held.
func (q *Queue) front() (*entry, error) {
	for q.first == nil && q.waiting > 0 {
		rec, n, err := readHead(q.f, q.head, q.size)
		if err != nil {
			return nil, fmt.Errorf("store: the next message: %w", err)
		}
		if size := headLen + n; rec.state == taken {
			q.head += size
		} else {
			q.first = &entry{seq: rec.seq, at: rec.at, off: q.head, size: size, begun: rec.state == begun}
			if right(rec.at) {
				q.first.since = rec.at
			}
		}
	}
	return q.first, nil
}

// Put keeps a message. When it returns nil the message is on disk. again says that
// it may be one that was put before, which its digest tells.
func (q *Queue) Put(body []byte, d Digest, again bool, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.broken != nil {
		return q.broken
	}
	for _, s := range q.seen {
		if again && s.digest == d && now.Sub(s.at).Abs() < seenTime {
			return ErrSeen
		}
	}
	oldest, err := q.front()
	if err != nil {
		return err
	}
	if oldest != nil && oldest.since.IsZero() && right(now) {
		oldest.since = now
	}
	rec := record{state: waits, seq: q.next, at: now, digest: d, body: body}
	switch {
	case int64(len(body)) > min(q.limits.Message, maxMessage) || q.bytes+rec.len() > q.limits.Bytes:
		return ErrFull
	case oldest != nil && !oldest.since.IsZero() && now.Sub(oldest.since) > q.limits.Age:
		return ErrOld
	}
	if err := q.write1(&rec); err != nil {
		// What was written of it must not stand before the next one.
		if terr := q.f.Truncate(q.size); terr != nil {
			q.broken = fmt.Errorf("store: %w", errors.Join(err, terr))
		}
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	if err := q.f.Sync(); err != nil {
		q.broken = fmt.Errorf("store: sync: %w", err)
		return q.broken
	}
	q.waiting++
	q.size += rec.len()
	q.bytes += rec.len()
	q.next++
	q.remember(seen{d, now})
	q.tell()
	return nil
}

// write1 writes a record at the end; q.mu is held. A long message is not copied for
// that: whether both writes came to the disk is the checksum's to say, as it is of
// one.
func (q *Queue) write1(rec *record) error {
	if len(rec.body) <= copyMost {
		_, err := q.f.WriteAt(rec.append(nil), q.size)
		return err
	}
	if _, err := q.f.WriteAt(rec.appendHead(nil), q.size); err != nil {
		return err
	}
	_, err := q.f.WriteAt(rec.body, q.size+headLen)
	return err
}

func (q *Queue) remember(s seen) {
	if len(q.seen) >= seenMost {
		q.seen = append(q.seen[:0], q.seen[1:]...)
	}
	q.seen = append(q.seen, s)
}

// An Item is a message that waits.
type Item struct {
	Seq   uint64    // its number
	Since time.Time // from when its age counts; zero while no clock that was right saw it
	Body  []byte
	Begun bool // see Begin
}

// First returns the message that has waited longest, or nil if none waits.
func (q *Queue) First() (*Item, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, err := q.front()
	if err != nil || e == nil {
		return nil, err
	}
	rec, err := readRecord(q.f, e.off, q.size)
	if err != nil {
		return nil, fmt.Errorf("store: message %d: %w", e.seq, err)
	}
	return &Item{e.seq, e.since, rec.body, e.begun}, nil
}

// Begin notes that the delivery of the message that has waited longest has come to
// a point that must not be forgotten. When it returns nil that is on disk.
func (q *Queue) Begin(seq uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.mark(seq, begun); err != nil {
		return err
	}
	q.first.begun = true
	return nil
}

// mark writes the state of the first message; q.mu is held.
func (q *Queue) mark(seq uint64, state byte) error {
	e, err := q.front()
	if err != nil {
		return err
	}
	if e == nil || e.seq != seq {
		return fmt.Errorf("store: message %d is not the first", seq)
	}
	if q.broken != nil {
		return q.broken
	}
	if _, err := q.f.WriteAt([]byte{state}, e.off); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := q.f.Sync(); err != nil {
		q.broken = fmt.Errorf("store: sync: %w", err)
	}
	return q.broken
}

// Done notes that the message that has waited longest was taken. When it returns
// nil that is on disk.
func (q *Queue) Done(seq uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.mark(seq, taken); err != nil {
		return err
	}
	q.waiting--
	q.bytes -= q.first.size
	q.head, q.first = q.first.off+q.first.size, nil
	if dead := q.size - q.bytes; dead > rewriteFrom && dead > q.bytes {
		// It is as good as before if this fails, and longer.
		_ = q.rewrite()
	}
	return nil
}

// Close closes the file.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.broken == nil {
		q.broken = errors.New("store: closed")
	}
	return q.f.Close()
}
