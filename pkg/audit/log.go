package audit

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"golang.org/x/mod/sumdb/note"
)

// Config says how to open a log.
type Config struct {
	// Dir is the audit directory. It is made if it is not there. Empty means
	// Audit.Dir.
	Dir string
	// Origin names the log; see [Origin].
	Origin string
	// Audit holds the limits. A zero one means its documented default.
	Audit config.Audit
	// Signer signs checkpoints, and Verifier is its public half as
	// note.NewVerifier takes it: an Ed25519 key by the name of Origin that is
	// kept elsewhere. Nil means the key in Dir, made at first use.
	Signer   note.Signer
	Verifier string
	// PseudonymKey is 32 bytes; nil means the key in Dir, made at first use.
	PseudonymKey []byte
	// Clock gives records their time. Nil means time.Now.
	Clock func() time.Time
	// Logger hears what happens to the log itself. Nil means nobody.
	Logger *slog.Logger

	disk     disk          // for tests; nil means the real one
	retry    time.Duration // for tests; 0 means retryDisk
	patience time.Duration // for tests; 0 means closeTimeout
}

const (
	defaultBlockRecords = 16384
	defaultBlockTime    = time.Second
	defaultFlushTime    = 50 * time.Millisecond
	defaultBuffer       = 8 << 20
	defaultRotateSize   = 256 << 20
	defaultMinFree      = 64 << 20

	// minBuffer holds a largest record twice, so that one of them is never
	// larger than what Append may wait for.
	minBuffer = 2 * MaxRecord
	// retryDisk is how often a disk that was full or failing is tried again.
	retryDisk = time.Second
	// closeTimeout bounds Close on a disk that does not take what was accepted.
	closeTimeout = 15 * time.Second
	// scratchMost is the largest scratch buffer that is kept for another record.
	scratchMost = 64 << 10
)

func (c *Config) fill() error {
	a := &c.Audit
	set := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	if a.BlockRecords == 0 {
		a.BlockRecords = defaultBlockRecords
	}
	set((*int64)(&a.BlockTime), int64(defaultBlockTime))
	set((*int64)(&a.FlushTime), int64(defaultFlushTime))
	set((*int64)(&a.Buffer), defaultBuffer)
	set((*int64)(&a.RotateSize), defaultRotateSize)
	set((*int64)(&a.MinFree), defaultMinFree)
	if a.BlockRecords < 0 || a.BlockTime < 0 || a.FlushTime < 0 || a.RotateSize < 0 || a.MinFree < 0 {
		return errors.New("audit: limits cannot be negative")
	}
	if a.Buffer < minBuffer {
		return fmt.Errorf("audit: buffer must be at least %d bytes", minBuffer)
	}
	switch a.Identifiers {
	case "", "pseudonym", "clear":
	default:
		return fmt.Errorf("audit: identifiers must be pseudonym or clear, not %q", a.Identifiers)
	}
	if c.Dir == "" {
		c.Dir = a.Dir
	}
	if c.Dir == "" || c.Origin == "" {
		return errors.New("audit: a directory and an origin are needed")
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.disk == nil {
		c.disk = osDisk{filepath.Join(c.Dir, recordsName)}
	}
	if c.retry == 0 {
		c.retry = retryDisk
	}
	if c.patience == 0 {
		c.patience = closeTimeout
	}
	return nil
}

// A Log is an open audit log. All methods are safe for concurrent use.
type Log struct {
	cfg     Config
	limit   int // bytes the buffer may hold
	run     string
	public  string
	lock    *os.File
	tlog    *tlog
	scratch sync.Pool // *[]byte
	done    chan struct{}

	// The writer sleeps until wake, then gathers for FlushTime unless hurry
	// says not to. Both have room for one.
	wake, hurry chan struct{}

	mu       sync.Mutex
	pending  []byte // records accepted and not taken by the writer
	inflight int    // bytes the writer took and has not made durable
	owing    int64  // what pending will take of the disk at most
	writing  int64  // and what inflight will
	accepted uint64 // records ever put into pending
	durable  uint64 // how many of those are on disk
	closed   bool
	down     *outage // nil while records are taken
	shares   shares  // outlasts an outage, so that no device begins anew at the brink
	passed   trail
	moved    chan struct{} // closed when any of the above may let somebody go on; nil if nobody waits
	state    state         // what Status shows of the writer
	closeErr error
}

// An outage is a time in which no records are taken.
type outage struct {
	since time.Time
	err   error
	stuck bool // what was accepted cannot be written either
	// room is how many bytes of disk there are for records marked Reserve or
	// FollowsUp, and late how many of them for the latter only.
	room, late int64
}

// Open opens the log in the directory, or begins one. It recovers what a crash
// left and writes the record that begins this run before it returns. The
// context bounds opening only; [Log.Close] ends the log.
func Open(ctx context.Context, cfg Config) (_ *Log, err error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	for _, d := range []string{cfg.Dir, filepath.Join(cfg.Dir, recordsName), filepath.Join(cfg.Dir, logName)} {
		if err := os.MkdirAll(d, dirMode); err != nil {
			return nil, fmt.Errorf("make the audit directory: %w", err)
		}
	}
	l := &Log{cfg: cfg, limit: int(cfg.Audit.Buffer), done: make(chan struct{}), wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		shares: shares{}, passed: newTrail(int64(cfg.Audit.MinFree) / followKept / followUp)}
	l.scratch.New = func() any { b := make([]byte, 0, 2048); return &b }
	if l.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.lock.Close())
		}
	}()
	signer, public := cfg.Signer, cfg.Verifier
	if signer == nil {
		if signer, public, err = signingKey(cfg.Dir, cfg.Origin, rand.Reader); err != nil {
			return nil, err
		}
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return nil, fmt.Errorf("audit log's public key: %w", err)
	}
	if verifier.Name() != cfg.Origin || signer.Name() != cfg.Origin || signer.KeyHash() != verifier.KeyHash() {
		return nil, fmt.Errorf("audit log's public key is not that of %q's signing key", cfg.Origin)
	}
	l.public = public
	var key []byte
	if cfg.Audit.Identifiers != "clear" {
		if key = cfg.PseudonymKey; key == nil {
			if key, err = pseudonymKey(cfg.Dir); err != nil {
				return nil, fmt.Errorf("audit log's pseudonym key: %w", err)
			}
		}
	}
	l.run = newRun()
	if l.tlog, err = openTlog(ctx, filepath.Join(cfg.Dir, logName), signer, verifier, cfg.Logger); err != nil {
		return nil, err
	}
	w := &writer{log: l, cfg: &l.cfg, enc: newEncoder(l.run, key), block: newTree()}
	found, err := w.resume()
	if err != nil {
		gone, cancel := context.WithCancel(ctx)
		cancel()
		return nil, errors.Join(err, l.tlog.close(gone))
	}
	go w.loop()
	if err = l.Append(ctx, found.record()); err == nil {
		err = l.Flush(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin the audit log's run: %w", err), l.Close())
	}
	return l, nil
}

// newRun returns an id for this run of the program.
func newRun() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Append accepts a record: it will be in the log unless the machine or the
// process dies before FlushTime has passed. It keeps nothing of r.
//
// With the buffer full it waits until there is room or ctx ends. It returns
// [ErrUnavailable] while the disk takes nothing, [ErrClosed] once closing has
// begun, and [ErrTooLarge]. A record marked Reserve may be taken with nearly no disk
// left too, and is durable then when Append returns nil; if it returns an error, the
// record may be in the log all the same. One marked FollowsUp is taken then if a record
// of the same decision was, which has paid for it.
func (l *Log) Append(ctx context.Context, r *Record) error {
	p := l.scratch.Get().(*[]byte)
	defer func() {
		if cap(*p) <= scratchMost {
			l.scratch.Put(p)
		}
	}()
	now := l.cfg.Clock()
	b := appendRecord(append((*p)[:0], 0, 0, 0, 0), r, now, true)
	if *p = b; len(b) > MaxRecord {
		if r.Decision != nil && r.Decision.Allow {
			return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxRecord)
		}
		if b = appendRecord(append(b[:0], 0, 0, 0, 0), r, now, false); len(b) > MaxRecord {
			return fmt.Errorf("%w: %d bytes without facts, at most %d", ErrTooLarge, len(b), MaxRecord)
		}
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	cost := costMost(len(b))
	if r.Reserve || r.FollowsUp {
		cost = l.cost(b[4:])
	}

	l.mu.Lock()
	for {
		if err := l.refusal(); err != nil && (l.closed || !l.takes(r, cost, now)) {
			l.mu.Unlock()
			return err
		}
		if len(l.pending)+l.inflight+len(b) <= l.limit {
			break
		}
		if err := l.wait(ctx); err != nil {
			l.mu.Unlock()
			return fmt.Errorf("audit log's buffer is full: %w", err)
		}
	}
	reserved := l.down != nil
	if reserved {
		l.charge(r, cost, now)
	}
	l.owing += cost
	before := len(l.pending)
	l.pending = append(l.pending, b...)
	l.accepted++
	// Half the buffer is the writer's, half is being filled: past a quarter it
	// should not wait for FlushTime.
	first, enough := before == 0, before < l.limit/4 && len(l.pending) >= l.limit/4
	l.mu.Unlock()
	if first {
		poke(l.wake)
	}
	if enough {
		poke(l.hurry)
	}
	if reserved && r.Reserve {
		return l.Flush(ctx)
	}
	return nil
}

// Flush waits until everything appended before is durable.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	want := l.accepted
	for l.durable < want {
		if l.down != nil && l.down.stuck {
			return l.down.error()
		}
		if l.closeErr != nil {
			return l.closeErr
		}
		poke(l.wake)
		poke(l.hurry)
		if err := l.wait(ctx); err != nil {
			return fmt.Errorf("flush the audit log: %w", err)
		}
	}
	return nil
}

// refusal returns why no record is taken, or nil. The caller holds mu.
func (l *Log) refusal() error {
	switch {
	case l.closed:
		return ErrClosed
	case l.down != nil:
		return l.down.error()
	}
	return nil
}

func (o *outage) error() error {
	return fmt.Errorf("%w since %s: %w", ErrUnavailable, o.since.UTC().Format(time.RFC3339), o.err)
}

// wait waits for the writer to have done something. The caller holds mu, which
// is given up meanwhile.
func (l *Log) wait(ctx context.Context) error {
	if l.moved == nil {
		l.moved = make(chan struct{})
	}
	ch := l.moved
	l.mu.Unlock()
	defer l.mu.Lock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// notify wakes whoever waits. The caller holds mu.
func (l *Log) notify() {
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Close takes no more records, writes and seals all that were accepted, has a
// checkpoint published over them, and ends everything Open started. Its error
// says what could not be brought to disk. Further calls return the same.
func (l *Log) Close() error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.notify()
	l.mu.Unlock()
	if first {
		poke(l.wake)
		poke(l.hurry)
	}
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closeErr
}
