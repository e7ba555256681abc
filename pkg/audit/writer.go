package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/yield"
)

// A writer is the one goroutine that turns accepted records into lines, and
// lines into durable, sealed blocks. Everything here is its own; what others
// see goes through Log.mu.
type writer struct {
	log *Log
	cfg *Config
	enc *encoder

	next     uint64 // sequence number of the next record
	segment  string // name of the segment that is written; "" before the next one begins
	size     int64  // bytes of it that are durable
	file     file   // nil until needed, and after an error
	out      []byte // lines that are to be written at size
	outCount uint64 // records of the buffer in out

	block      *tree     // leaves of the open block
	blockFirst uint64    // its first record
	blockAt    int64     // where it begins in the segment
	began      time.Time // when it began
	nextBlock  uint64
	previous   digest // leaf hash of the last seal
	sealed     uint64 // last record in a sealed block

	seals []entry // in out, for the transparency log once out is durable
	spare []byte  // the buffer half that is not being filled

	pause *yield.Pause // between records
}

// recoveryShare is the part of MinFree that must be free on top of it before an
// outage ends, so that a disk at the brink does not begin a new one each second.
const recoveryShare = 8

// yieldAfter is after how many records the writer lets others run, some 50 µs: where
// there is one processor, whole batches at a time would be felt by every device.
const yieldAfter = 16

// piece is how many bytes are written to the file before others run again: the
// kernel takes some 2 µs to copy a kB, and a whole batch at a time has been 4 ms.
const piece = 32 << 10

// loop runs until the log is closed.
func (w *writer) loop() {
	l := w.log
	defer close(l.done)
	w.pause = yield.NewPause()
	defer w.pause.Close()
	forceSeal := true // what the last run could not, and what begins this one
	retry := time.NewTicker(w.cfg.retry)
	defer retry.Stop()
	for {
		var due <-chan time.Time // the open block's time to be sealed
		if w.block.size > 0 {
			due = time.After(time.Until(w.began.Add(w.cfg.Audit.BlockTime.D())))
		}
		select {
		case <-l.wake:
			select {
			case <-l.hurry:
			case <-time.After(w.cfg.Audit.FlushTime.D()):
			}
		case <-l.hurry:
		case <-due:
		case <-retry.C:
			if !w.isDown() {
				continue
			}
		}
		l.tlog.drain() // back-pressure: meanwhile the buffer fills, and Append waits
		batch, n, closing := w.take()
		if err := w.commit(batch, n, closing || forceSeal, closing); err != nil || closing {
			w.finish(err)
			return
		}
		forceSeal = false
	}
}

// take swaps the buffer's halves and returns the full one, how many records it
// holds, and whether the log is to be closed after them.
func (w *writer) take() (batch []byte, n uint64, closing bool) {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	batch, l.pending = l.pending, w.spare[:0]
	l.inflight = len(batch)
	l.writing, l.owing = l.owing, 0
	return batch, l.accepted - l.durable, l.closed
}

// commit brings a batch to disk. It returns an error only when the log is
// closing and the disk would not take it.
func (w *writer) commit(batch []byte, n uint64, force, closing bool) error {
	w.checkSpace()
	w.outCount = n
	for i, rest := 1, batch; len(rest) > 0; i++ {
		size := 4 + int(binary.LittleEndian.Uint32(rest))
		w.add(rest[4:size])
		rest = rest[size:]
		if i%yieldAfter == 0 {
			w.pause.Take()
		}
	}
	if closing {
		w.note(eventClosed)
	}
	// A block never spans two segments: past the rotation size it ends.
	full := w.size+int64(len(w.out)) >= int64(w.cfg.Audit.RotateSize)
	if w.block.size > 0 && (force || full || time.Since(w.began) >= w.cfg.Audit.BlockTime.D()) {
		w.seal()
	}
	if len(w.out) > 0 {
		if err := w.persist(closing); err != nil {
			return err
		}
	}
	w.spare = batch
	w.publish()
	if full && w.block.size == 0 {
		w.rotate()
	}
	return nil
}

// add writes one record's line and hashes it.
func (w *writer) add(tokens []byte) {
	if w.segment == "" {
		w.segment = segmentName(w.next)
	}
	from := len(w.out)
	out, err := w.enc.line(w.out, w.next, tokens)
	if err != nil {
		// Only a fault of ours can bring this about. The number is used and the
		// place is seen, rather than a record gone without a trace.
		w.cfg.Logger.Error("a record in the audit log's buffer was malformed", "seq", w.next, "error", err)
		out, _ = w.enc.line(w.out[:from], w.next, appendRecord(nil, &Record{Kind: KindSystem, Event: eventMalformed, Error: err.Error()}, w.cfg.Clock(), true))
	}
	w.out = out
	w.leaf(w.out[from:], w.size+int64(from))
	w.out = append(w.out, '\n')
	if w.block.size >= uint64(w.cfg.Audit.BlockRecords) {
		w.seal()
	}
}

// leaf adds the line of record next, at offset in the segment, to the open
// block.
func (w *writer) leaf(line []byte, offset int64) {
	if w.block.size == 0 {
		w.blockFirst, w.blockAt, w.began = w.next, offset, time.Now()
	}
	w.block.add(w.block.leafHash(line))
	w.next++
}

// note adds a record of the log's own.
func (w *writer) note(event string, detail ...protocol.Field) {
	w.add(appendRecord(nil, &Record{Kind: KindSystem, Event: event, Detail: detail}, w.cfg.Clock(), true))
}

// seal closes the open block, which holds at least one record.
func (w *writer) seal() {
	s := seal{
		Block: w.nextBlock, Run: w.log.run, Segment: w.segment,
		Offset: w.blockAt, Bytes: w.size + int64(len(w.out)) - w.blockAt,
		First: w.blockFirst, Count: w.block.size, Root: w.block.root(), Previous: w.previous,
	}
	line := s.appendTo(nil)
	w.out = append(append(w.out, line...), '\n')
	w.sealedAs(&s, line)
	w.seals = append(w.seals, entry{s.Block, line})
}

// sealedAs makes s, whose line is given, the last block.
func (w *writer) sealedAs(s *seal, line []byte) {
	w.previous = w.block.leafHash(line)
	w.nextBlock, w.sealed = s.Block+1, s.last()
	w.block.reset()
}

// persist writes out, and syncs, until it succeeds. After an error nothing is
// known of what reached the disk, not even by a later sync: so the file is cut
// back to what was durable and all of out is written again.
func (w *writer) persist(closing bool) error {
	var limit <-chan time.Time
	for {
		err := w.write()
		if err == nil {
			break
		}
		w.fail(err, true, 0)
		if closing && limit == nil {
			limit = time.After(w.cfg.patience)
		}
		select {
		case <-time.After(w.cfg.retry):
		case <-w.log.hurry: // it may be closing
		case <-limit:
			return fmt.Errorf("close the audit log: %d accepted records are not on disk: %w", w.outCount, err)
		}
		if !closing {
			w.log.mu.Lock()
			closing = w.log.closed
			w.log.mu.Unlock()
		}
	}
	w.size += int64(len(w.out))
	w.out = w.out[:0]
	for _, e := range w.seals {
		w.log.tlog.add(e.block, e.line)
	}
	clear(w.seals)
	w.seals = w.seals[:0]
	return nil
}

// write makes one attempt at bringing out to disk.
func (w *writer) write() (err error) {
	if w.file == nil {
		f, err := w.cfg.disk.open(w.segment)
		if err != nil {
			return err
		}
		w.file = f
		if err := f.Truncate(w.size); err != nil {
			return errors.Join(err, w.drop())
		}
	}
	at := w.size
	for p := range slices.Chunk(w.out, piece) {
		if at > w.size {
			w.pause.Take()
		}
		if _, err := w.file.WriteAt(p, at); err != nil {
			// Give back what was taken: others need space too.
			return errors.Join(err, w.file.Truncate(w.size), w.drop())
		}
		at += int64(len(p))
	}
	if err := w.file.Sync(); err != nil {
		return errors.Join(err, w.file.Truncate(w.size), w.drop())
	}
	return nil
}

// drop closes the segment's file.
func (w *writer) drop() error {
	f := w.file
	if w.file = nil; f == nil {
		return nil
	}
	return f.Close()
}

// rotate ends the segment; the next record begins another.
func (w *writer) rotate() {
	if err := w.drop(); err != nil {
		w.cfg.Logger.Warn("closing a full audit segment", "segment", w.segment, "error", err)
	}
	w.segment, w.size = "", 0
}

// publish tells the rest of the program what is durable.
func (w *writer) publish() {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable += w.outCount
	w.outCount = 0
	l.inflight, l.writing = 0, 0
	l.state = state{flushed: w.next - 1, sealed: w.sealed, blocks: w.nextBlock, segment: w.segment, size: w.size}
	if l.down != nil {
		l.down.stuck = false
	}
	l.notify()
}

// checkSpace begins an outage when the disk is nearly full or the transparency
// log takes no blocks, and ends it, with a record, when neither is so. It is
// called when out is empty: had an attempt to write failed, persist would still
// be at it.
func (w *writer) checkSpace() {
	minFree := uint64(w.cfg.Audit.MinFree)
	need := minFree
	if w.isDown() {
		need += minFree / recoveryShare
	}
	free, err := w.cfg.disk.free()
	switch {
	case err != nil:
		w.fail(err, false, 0)
	case w.log.tlog.full():
		w.fail(fmt.Errorf("%d sealed blocks wait for the transparency log: %w", maxUnlogged, w.log.tlog.fault()), false, 0)
	case free < need:
		w.fail(fmt.Errorf("only %d bytes are free on its disk; min_free is %d", free, minFree), false, int64(free)-int64(minFree/reserveKept-minFree/followKept))
	case w.isDown():
		w.restore()
	}
}

func (w *writer) isDown() bool {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down != nil
}

// fail begins an outage, or goes on with one. room is how many bytes of disk there
// are for records marked Reserve or FollowsUp meanwhile, and for what was accepted
// before.
func (w *writer) fail(err error, stuck bool, room int64) {
	l := w.log
	l.mu.Lock()
	fresh := l.down == nil
	if fresh {
		l.down = &outage{since: w.cfg.Clock(), late: int64(w.cfg.Audit.MinFree) / followKept}
	}
	l.shares.forget(w.cfg.Clock())
	l.down.err, l.down.stuck = err, stuck
	l.down.room = max(0, room-l.owing-l.writing)
	l.notify()
	l.mu.Unlock()
	if fresh {
		w.cfg.Logger.Error("the audit log takes no records, so nothing is allowed until it does", "error", err)
	}
}

// restore ends an outage.
func (w *writer) restore() {
	l := w.log
	l.mu.Lock()
	down := l.down
	l.down = nil
	l.notify()
	l.mu.Unlock()
	until := w.cfg.Clock()
	w.cfg.Logger.Info("the audit log takes records again", "since", down.since, "error", down.err)
	w.note(eventRestored,
		protocol.Field{Name: "from", Value: protocol.String(down.since.UTC().Format(timeForm))},
		protocol.Field{Name: "until", Value: protocol.String(until.UTC().Format(timeForm))},
		protocol.Field{Name: "cause", Value: protocol.String(down.err.Error())})
}

// finish ends the log after its last commit.
func (w *writer) finish(err error) {
	l := w.log
	ctx, cancel := l.closing()
	defer cancel()
	err = errors.Join(err, w.drop(), l.tlog.close(ctx), l.lock.Close())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeErr = err
	l.notify()
}
