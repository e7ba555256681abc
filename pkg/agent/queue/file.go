package queue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// load reads the file as it was left.
func (q *Queue) load(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	total := st.Size()
	if total < int64(len(magic)) {
		// New, or cut off while it was made.
		return q.begin(f)
	}
	head := make([]byte, len(magic))
	if _, err := f.ReadAt(head, 0); err != nil {
		return err
	}
	if string(head) != magic {
		return errForeign
	}
	off := int64(len(magic))
	for off < total {
		rec, err := readRecord(f, off, total)
		if errors.Is(err, errTorn) {
			break
		}
		if err != nil {
			return err
		}
		q.next = max(q.next, rec.seq+1)
		q.remember(seen{rec.digest, rec.at})
		if rec.state != taken {
			q.waiting++
			q.bytes += rec.len()
		}
		off += rec.len()
	}
	q.size, q.head = off, int64(len(magic))
	if q.waiting > 0 {
		q.tell()
	}
	if off == total {
		return nil
	}
	return q.cutOff(f, total)
}

func (q *Queue) begin(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(magic), 0); err != nil {
		return err
	}
	q.size, q.head = int64(len(magic)), int64(len(magic))
	return errors.Join(f.Sync(), durable.SyncDir(filepath.Dir(q.path)))
}

// cutOff takes away what is behind the last whole record, and keeps it: if it is
// anything else than a message that nobody was told of, somebody will want it, also
// after the next crash.
func (q *Queue) cutOff(f *os.File, total int64) error {
	q.cut = total - q.size
	beside, err := os.OpenFile(q.path+".cut", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(beside, io.NewSectionReader(f, q.size, q.cut))
	if err = errors.Join(err, beside.Sync(), beside.Close()); err != nil {
		return err
	}
	return errors.Join(f.Truncate(q.size), f.Sync(), durable.SyncDir(filepath.Dir(q.path)))
}

// rewrite writes the file anew with what waits, and what is remembered of what
// does not; q.mu is held.
func (q *Queue) rewrite() error {
	f, err := os.OpenFile(q.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	n, err := q.write(f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(q.path+".new", q.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store: %w", err), f.Close(), os.Remove(q.path+".new"))
	}
	// The new file has the name now, whatever follows.
	was := q.f
	q.f, q.size, q.head, q.first = n.f, n.size, n.head, nil
	if err := durable.SyncDir(filepath.Dir(q.path)); err != nil {
		// Which of the two a crash would leave is not known.
		q.broken = fmt.Errorf("store: sync: %w", err)
	}
	return errors.Join(q.broken, was.Close())
}

// write writes what rewrite does, and returns the queue as it is in that file.
func (q *Queue) write(f *os.File) (*Queue, error) {
	n := &Queue{f: f, size: int64(len(magic))}
	w := bufio.NewWriter(f)
	if _, err := w.WriteString(magic); err != nil {
		return nil, err
	}
	put := func(r *record) error {
		_, err := w.Write(r.append(nil))
		n.size += r.len()
		return err
	}
	here := map[Digest]bool{}
	for _, s := range q.seen {
		here[s.digest] = false
	}
	if err := q.each(func(rec *record) error {
		if _, ok := here[rec.digest]; ok {
			here[rec.digest] = true
		}
		return nil
	}); err != nil {
		return nil, err
	}
	// Numbers go on from the last one, also if nothing waits.
	for _, s := range q.seen {
		if !here[s.digest] {
			if err := put(&record{state: taken, seq: q.next - 1, at: s.at, digest: s.digest}); err != nil {
				return nil, err
			}
		}
	}
	n.head = n.size
	if err := q.each(put); err != nil {
		return nil, err
	}
	return n, w.Flush()
}

// each gives do what waits, in order.
func (q *Queue) each(do func(*record) error) error {
	for off := q.head; off < q.size; {
		rec, err := readRecord(q.f, off, q.size)
		if err != nil {
			return err
		}
		if off += rec.len(); rec.state == taken {
			continue
		}
		if err := do(rec); err != nil {
			return err
		}
	}
	return nil
}
