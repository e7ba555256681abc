package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// recovered is what was found when the log was opened.
type recovered struct {
	fresh   bool   // there was no log
	run     string // the run that wrote the last record
	last    uint64 // the last whole record; 0 if there is none
	closed  bool   // that record is the one that ends a run
	records uint64 // whole records that were in no sealed block
	blocks  int    // sealed blocks that were not in the transparency log
	cut     int64  // bytes of a torn end
	cutFile string // where they were moved, below the audit directory
	damage  string // what cannot have been a crash's doing
}

// record returns the record that begins this run.
func (r *recovered) record() *Record {
	out := &Record{Kind: KindSystem, Event: eventOpened}
	if r.fresh {
		return out
	}
	add := func(name string, v protocol.Value) {
		out.Detail = append(out.Detail, protocol.Field{Name: name, Value: v})
	}
	add("previous_run", protocol.String(r.run))
	add("previous_seq", protocol.Int(int64(r.last)))
	if r.closed && r.cut == 0 && r.damage == "" {
		return out
	}
	out.Event = eventRecovered
	add("closed", protocol.Bool(r.closed))
	add("unsealed_records", protocol.Int(int64(r.records)))
	add("unlogged_blocks", protocol.Int(int64(r.blocks)))
	add("cut_bytes", protocol.Int(r.cut))
	if r.cutFile != "" {
		add("cut_file", protocol.String(r.cutFile))
	}
	out.Error = "the previous run did not close the log: records it accepted less than flush_time before its end may be missing here"
	if r.damage != "" {
		out.Event = eventDamaged
		out.Error = r.damage
	}
	return out
}

// resume reads what follows the last block in the transparency log, and brings
// the writer to where the last whole record ends. It changes nothing but a torn
// end, which it keeps aside: where a crash cannot explain what is found, the
// files stay as they are and a new segment begins.
func (w *writer) resume() (*recovered, error) {
	names, strangers, err := segments(w.cfg.Dir)
	if err != nil {
		return nil, err
	}
	if len(strangers) > 0 {
		w.cfg.Logger.Warn("files that are no segments lie among the audit log's", "files", strangers)
	}
	last, line, err := w.log.tlog.lastSeal()
	if err != nil {
		return nil, err
	}
	r := &recovered{fresh: last == nil && len(names) == 0}
	w.next = 1
	from, offset := 0, int64(0)
	if last != nil {
		w.sealedAs(last, line)
		w.next = last.last() + 1
		r.last = last.last()
		if from = slices.Index(names, last.Segment); from < 0 {
			r.damage = fmt.Sprintf("segment %s is missing, which holds block %d", last.Segment, last.Block)
		} else if tail, err := w.blockEnd(last, line); err != nil {
			r.damage = fmt.Sprintf("the end of block %d in segment %s: %v", last.Block, last.Segment, err)
		} else {
			r.seen(tail)
			offset = last.Offset + last.Bytes + int64(len(line)) + 1
		}
	}
	for i := from; i < len(names) && r.damage == ""; i++ {
		if err := w.scan(r, names[i], offset, i == len(names)-1); err != nil {
			return nil, fmt.Errorf("recover audit segment %s: %w", names[i], err)
		}
		offset = 0
	}
	if r.damage != "" {
		w.cfg.Logger.Error("the audit log was damaged; it goes on in a new segment, and verification will name the place", "error", r.damage)
		if err := w.leave(names); err != nil {
			return nil, err
		}
	} else if !r.fresh && (!r.closed || r.cut > 0) {
		w.cfg.Logger.Warn("the audit log was not closed by the run before", "last", r.last, "unsealed", r.records, "cut", r.cut)
	}
	return r, nil
}

// seen takes note of the last record's line.
func (r *recovered) seen(line []byte) {
	var j struct {
		Seq        uint64
		Run, Event string
	}
	if json.Unmarshal(line, &j) == nil {
		r.last, r.run, r.closed = j.Seq, j.Run, j.Event == eventClosed
	}
}

// blockEnd checks that a block's seal stands where the log says, and returns
// the block's last record's line, if it is a short one.
func (w *writer) blockEnd(s *seal, line []byte) ([]byte, error) {
	const enough = 4 << 10 // more than any record that ends a run has
	before := min(s.Bytes, enough)
	f, err := openAt(segmentPath(w.cfg.Dir, s.Segment), s.Offset+s.Bytes-before)
	if err != nil {
		return nil, err
	}
	b := make([]byte, int(before)+len(line)+1)
	_, err = io.ReadFull(f, b)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, errors.New("the segment is shorter than the block")
	}
	if !bytes.Equal(b[before:], append(slices.Clip(line), '\n')) {
		return nil, errors.New("its seal is not there")
	}
	b = bytes.TrimSuffix(b[:before], []byte("\n"))
	return b[bytes.LastIndexByte(b, '\n')+1:], nil
}

// scan reads a segment from offset on. A torn end is possible only in the last
// one: a segment is closed when everything in it is durable.
func (w *writer) scan(r *recovered, name string, offset int64, isLast bool) error {
	if offset == 0 && (name != segmentName(w.next) || w.block.size > 0) {
		r.damage = fmt.Sprintf("segment %s begins where record %d is expected", name, w.next)
		return nil
	}
	f, err := openAt(segmentPath(w.cfg.Dir, name), offset)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	w.segment, w.size = name, offset
	in := newLines(f, offset)
	for {
		line, err := in.read()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, errTorn) && !errors.Is(err, errLong) {
			return err
		}
		if err == nil {
			var whole bool
			if whole, err = w.again(r, line, in.offset); err != nil {
				r.damage = fmt.Sprintf("segment %s, byte %d: %v", name, in.offset, err)
				return nil
			}
			if whole {
				w.size = in.next
				continue
			}
		}
		if !isLast {
			r.damage = fmt.Sprintf("segment %s, byte %d: neither a record nor a seal, and another segment follows", name, in.offset)
			return nil
		}
		return w.cut(r, f, name)
	}
}

// again takes in a line that the last run wrote behind the last logged block.
// It reports whether the line is whole; a whole line that cannot stand here is
// an error.
func (w *writer) again(r *recovered, line []byte, offset int64) (whole bool, err error) {
	if s, err := parseSeal(line); err == nil {
		if w.block.size == 0 {
			return true, errors.New("a seal without records before it")
		}
		want := seal{
			Block: w.nextBlock, Run: s.Run, Segment: w.segment, Offset: w.blockAt, Bytes: offset - w.blockAt,
			First: w.blockFirst, Count: w.block.size, Root: w.block.root(), Previous: w.previous,
		}
		if *s != want {
			return true, errors.New("a seal that does not fit the records before it")
		}
		keep := bytes.Clone(line)
		w.sealedAs(s, keep)
		w.log.tlog.add(s.Block, keep)
		r.blocks++
		r.records = 0
		return true, nil
	}
	seq, ok := recordSeq(line)
	if !ok || !json.Valid(line) {
		return false, nil
	}
	if seq != w.next {
		return true, fmt.Errorf("record %d where %d is expected", seq, w.next)
	}
	w.leaf(line, offset)
	r.seen(line)
	r.records++
	return true, nil
}

// cut moves what follows the last whole line aside. The segment itself is cut
// when the writer opens it.
func (w *writer) cut(r *recovered, f *os.File, name string) error {
	if _, err := f.Seek(w.size, io.SeekStart); err != nil {
		return err
	}
	dir := filepath.Join(w.cfg.Dir, tornName)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	r.cutFile = filepath.Join(tornName, fmt.Sprintf("%s-%d-%s", name, w.size, w.log.run))
	out, err := os.OpenFile(filepath.Join(w.cfg.Dir, r.cutFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, f)
	r.cut = n
	return errors.Join(err, out.Sync(), out.Close(), durable.SyncDir(dir))
}

// leave puts the writer behind everything that lies on disk, so that nothing
// of it is touched again.
func (w *writer) leave(names []string) error {
	w.block.reset()
	w.segment, w.size = "", 0
	for _, name := range names {
		if first, _ := segmentSeq(name); first >= w.next {
			w.next = first + 1
		}
		f, err := os.Open(segmentPath(w.cfg.Dir, name))
		if err != nil {
			return err
		}
		for in := newLines(f, 0); ; {
			line, err := in.read()
			if err != nil && !errors.Is(err, errTorn) {
				break // what cannot be read holds no number that can be known
			}
			if seq, ok := recordSeq(line); ok && seq >= w.next {
				w.next = seq + 1
			}
			if err != nil {
				break
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
