package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"
)

const (
	// checkpointInterval is how often a new checkpoint may be signed, and so how
	// long closing the log takes: Tessera's shortest, because a command that opens
	// the log for one record should not linger.
	checkpointInterval = 100 * time.Millisecond
	// shutdownTimeout bounds the wait for the last checkpoint. What it would have
	// covered is durable already; the next run publishes it.
	shutdownTimeout = 10 * time.Second
	// A block that the log did not take is offered again after retryMin, doubled
	// up to retryMax.
	retryMin, retryMax = 50 * time.Millisecond, 5 * time.Second
	// spareFiles is how many file descriptors must be free before an entry is
	// added: Tessera panics when it cannot open its lock file.
	spareFiles = 8
	// maxUnlogged is how many sealed blocks may wait for the transparency log
	// before the audit log takes no more records: with the default block size
	// some four million records.
	maxUnlogged = 1024
)

// klogOnce guards the logger of klog, which Tessera writes to and which the
// process has one of: the first log that is opened lends its own.
var klogOnce sync.Once

// A tlog is the transparency log of blocks: a queue of seals, and one goroutine
// that hands them to Tessera one at a time. One at a time because order is what
// counts: with several under way, one could fail and a later one succeed.
type tlog struct {
	logger   *slog.Logger
	dir      string
	appender *tessera.Appender
	reader   tessera.LogReader
	shutdown func(context.Context) error
	ctx      context.Context    // Tessera's; its goroutines end with it
	cancel   context.CancelFunc // only after run has returned, which waits for Tessera
	quit     chan struct{}      // closed to give up on what is queued
	done     chan struct{}      // closed when run has returned

	mu     sync.Mutex
	queue  []entry
	closed bool
	err    error         // why the oldest seal was not taken; nil while all is well
	size   uint64        // how many blocks the log holds
	more   chan struct{} // cap 1: the queue or closed changed
	less   chan struct{} // closed after the next attempt at handing a block over; nil if nobody waits
}

// An entry is a seal on its way.
type entry struct {
	block uint64
	line  []byte
}

// openTlog opens the log in dir, or begins one. Its goroutines run until close.
func openTlog(ctx context.Context, dir string, signer note.Signer, verifier note.Verifier, logger *slog.Logger) (*tlog, error) {
	klogOnce.Do(func() { klog.SetSlogLogger(logger.With("component", "tessera")) })
	cp := filepath.Join(dir, layout.CheckpointPath)
	if raw, err := os.ReadFile(cp); err == nil {
		if _, err := openCheckpoint(raw, verifier); err != nil {
			return nil, fmt.Errorf("%s: %w", cp, err)
		}
		// Tessera publishes when the file is old enough. After the clock was set
		// back it would be too young for however long that was.
		if st, err := os.Stat(cp); err == nil && time.Until(st.ModTime()) > 0 {
			_ = os.Chtimes(cp, time.Time{}, time.Now())
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return nil, err
	}
	opts := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(checkpointInterval).
		WithCheckpointRepublishInterval(0). // the note says nothing new without new blocks
		WithBatching(1, time.Second).       // one at a time, at once
		WithPushback(maxUnlogged).
		WithShutdownTimeout(shutdownTimeout)
	// The log outlives the context it was opened with; close ends it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := &tlog{logger: logger, dir: dir, ctx: ctx, cancel: cancel, quit: make(chan struct{}), done: make(chan struct{}), more: make(chan struct{}, 1)}
	t.appender, t.shutdown, t.reader, err = tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open the transparency log: %w", err)
	}
	if t.size, err = t.reader.IntegratedSize(ctx); err != nil {
		cancel()
		return nil, fmt.Errorf("open the transparency log: %w", err)
	}
	go t.run()
	return t, nil
}

// lastSeal returns the last block the log holds, or nil if it holds none.
func (t *tlog) lastSeal() (*seal, []byte, error) {
	size := t.logged()
	if size == 0 {
		return nil, nil, nil
	}
	line, err := t.entry(size - 1)
	if err != nil {
		return nil, nil, fmt.Errorf("read the transparency log's last entry: %w", err)
	}
	s, err := parseSeal(line)
	if err == nil && s.Block != size-1 {
		err = fmt.Errorf("entry %d is the seal of block %d", size-1, s.Block)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the transparency log's last entry: %w", err)
	}
	return s, line, nil
}

// entry returns the log's entry i, which it must hold.
func (t *tlog) entry(i uint64) ([]byte, error) {
	const width = layout.EntryBundleWidth
	partial := uint8(0)
	if size, err := t.reader.IntegratedSize(t.ctx); err != nil {
		return nil, err
	} else if size/width == i/width {
		partial = uint8(size % width)
	}
	raw, err := t.reader.ReadEntryBundle(t.ctx, i/width, partial)
	if err != nil {
		return nil, err
	}
	var b api.EntryBundle
	if err := b.UnmarshalText(raw); err != nil {
		return nil, err
	}
	if i%width >= uint64(len(b.Entries)) {
		return nil, fmt.Errorf("entry bundle %d ends before entry %d", i/width, i)
	}
	return b.Entries[i%width], nil
}

// add queues a seal, whose line must be durable and is kept.
func (t *tlog) add(block uint64, line []byte) {
	t.mu.Lock()
	t.queue = append(t.queue, entry{block, line})
	t.mu.Unlock()
	t.poke()
}

// full reports whether so many seals wait that no more should be made.
func (t *tlog) full() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue) >= maxUnlogged
}

// drain waits while the queue is full and the log takes blocks, only slowly.
func (t *tlog) drain() {
	for {
		t.mu.Lock()
		wait := len(t.queue) >= maxUnlogged && t.err == nil && !t.closed
		if wait && t.less == nil {
			t.less = make(chan struct{})
		}
		less := t.less
		t.mu.Unlock()
		if !wait {
			return
		}
		<-less
	}
}

// logged returns how many blocks the log holds.
func (t *tlog) logged() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.size
}

// fault returns why the log does not take blocks, or nil.
func (t *tlog) fault() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

func (t *tlog) poke() {
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// run hands over the queue until the log is closed and the queue empty, or it
// is told to quit.
func (t *tlog) run() {
	defer close(t.done)
	wait := retryMin
	for {
		t.mu.Lock()
		empty, closed := len(t.queue) == 0, t.closed
		var e entry
		if !empty {
			e = t.queue[0]
		}
		t.mu.Unlock()
		if empty {
			if closed {
				return
			}
			select {
			case <-t.more:
				continue
			case <-t.quit:
				return
			}
		}
		err := t.put(e)
		t.mu.Lock()
		if err == nil {
			t.queue[0] = entry{}
			t.queue = t.queue[1:]
			t.size = e.block + 1
		}
		was := t.err
		t.err = err
		if t.less != nil {
			close(t.less)
			t.less = nil
		}
		t.mu.Unlock()
		if err == nil {
			if was != nil {
				t.logger.Info("the transparency log takes blocks again", "block", e.block)
			}
			wait = retryMin
			continue
		}
		if was == nil {
			t.logger.Error("the transparency log does not take a block; trying again", "block", e.block, "error", err)
		}
		select {
		case <-time.After(wait):
		case <-t.quit:
			return
		}
		wait = min(2*wait, retryMax)
	}
}

// put makes e the log's next entry, unless an attempt that seemed to fail did.
func (t *tlog) put(e entry) error {
	size, err := t.reader.IntegratedSize(t.ctx)
	if err != nil {
		return err
	}
	switch {
	case size == e.block+1:
		have, err := t.entry(e.block)
		if err == nil && string(have) != string(e.line) {
			err = fmt.Errorf("entry %d is another block's", e.block)
		}
		return err
	case size != e.block:
		return fmt.Errorf("the log holds %d blocks, so block %d cannot be the next", size, e.block)
	}
	if err := haveFiles(t.dir, spareFiles); err != nil {
		return err
	}
	// Errors are retried alike, pushback (tessera.ErrPushback) included.
	at, err := t.appender.Add(t.ctx, tessera.NewEntry(e.line))()
	if err == nil && at.Index != e.block {
		err = fmt.Errorf("block %d became entry %d", e.block, at.Index)
	}
	return err
}

// haveFiles reports whether n more files can be opened.
func haveFiles(path string, n int) (err error) {
	for range n {
		f, e := os.Open(path)
		if e != nil {
			return e
		}
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	return nil
}

// close hands over what is queued and publishes a checkpoint over it, for as
// long as ctx lasts, and stops.
func (t *tlog) close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.poke()
	defer t.cancel()
	select {
	case <-t.done:
	case <-ctx.Done():
		close(t.quit)
		<-t.done
		t.mu.Lock()
		defer t.mu.Unlock()
		if len(t.queue) == 0 {
			break
		}
		return fmt.Errorf("%d sealed blocks wait for the transparency log; the next start adds them: %w", len(t.queue), errors.Join(t.err, ctx.Err()))
	}
	if err := t.shutdown(ctx); err != nil {
		return fmt.Errorf("publish the last checkpoint: %w; the next start does", err)
	}
	return nil
}
