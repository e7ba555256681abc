package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"
)

// VerifyOptions say what to trust.
type VerifyOptions struct {
	// PublicKey is the log's verifier key as log.pub holds it
	// ("origin+hash+base64"). Empty means the one in the directory, which proves
	// less: see [PublicKey].
	PublicKey string
	// Checkpoint is one that was kept from an earlier time: the log must hold
	// everything it covers, unchanged. Nil means none.
	Checkpoint []byte
	// Progress is told about every tenth of a second's work, and at the end. It
	// may be nil.
	Progress func(Progress)
}

// Progress is how far a verification has come.
type Progress struct {
	Records uint64
	Bytes   int64 // of segments read
	Total   int64 // bytes of all segments when verification began
}

// A Report is what was verified.
type Report struct {
	Checkpoint Checkpoint `json:"checkpoint"` // every block up to its size was checked against it
	Segments   int        `json:"segments"`
	Records    uint64     `json:"records"` // whole records read, the last being Last
	First      uint64     `json:"first"`   // sequence number of the first; 0 if there is none
	Last       uint64     `json:"last"`
	Covered    uint64     `json:"covered"`    // the last record the signed checkpoint covers
	Waiting    uint64     `json:"waiting"`    // records in sealed blocks the checkpoint does not cover yet
	Unsealed   uint64     `json:"unsealed"`   // records not yet sealed
	TornBytes  int64      `json:"torn_bytes"` // of a line that is being written, or that a crash cut
	Closed     bool       `json:"closed"`     // the last run closed the log
	Gaps       []Gap      `json:"gaps"`       // where a run ended without closing
}

// A Gap is a place where accepted records may be missing, because the run that
// accepted them ended, by a crash or a kill, before they were on disk. No number
// is missing there: what was never written never had one.
type Gap struct {
	Before uint64 `json:"before"` // the record that tells of it, the first of the next run
	Run    string `json:"run"`    // the run that ended
}

// Evidence is what verification found to be wrong.
type Evidence struct {
	File   string // below the audit directory
	Line   int    // from 1; 0 if the file as a whole is wrong
	Offset int64  // of that line's first byte
	Block  uint64 // the block in question
	First  uint64 // the first record that can no longer be relied on
	Why    string
}

// ErrEvidence is what every [Evidence] is.
var ErrEvidence = errors.New("the audit log was altered")

func (e *Evidence) Error() string {
	at := e.File
	if e.Line > 0 {
		at = fmt.Sprintf("%s:%d (byte %d)", at, e.Line, e.Offset)
	}
	return fmt.Sprintf("%v: %s: %s (block %d; record %d and later cannot be relied on)", ErrEvidence, at, e.Why, e.Block, e.First)
}

// Unwrap makes errors.Is(err, ErrEvidence) true.
func (e *Evidence) Unwrap() error { return ErrEvidence }

// Verify checks everything that rests in dir against the log's signed
// checkpoint: that the signature is the key's, that the log's tree has the root
// that was signed, that each block is the one the log holds, and that each
// record is the one its block was sealed with. It changes nothing, takes no
// lock, and may be run while a gateway writes; what is written meanwhile is not
// looked at or reported as waiting.
//
// An error that is [ErrEvidence] is an [*Evidence] of the first place that is
// wrong; the report says how far everything was right. Other errors mean that
// verification could not be done.
//
// Memory does not grow with the log.
func Verify(ctx context.Context, dir string, opt VerifyOptions) (*Report, error) {
	if opt.PublicKey == "" {
		var err error
		if opt.PublicKey, err = PublicKey(dir); err != nil {
			return nil, err
		}
	}
	verifier, err := note.NewVerifier(opt.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the audit log's public key is none, such as log.pub holds: %w", err)
	}
	v := &verification{ctx: ctx, dir: dir, opt: opt, report: &Report{}, block: newTree(), next: 1}
	cpFile := filepath.Join(logName, layout.CheckpointPath)
	raw, err := os.ReadFile(filepath.Join(dir, cpFile))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(dir); err != nil {
			return nil, err
		}
		return v.report, &Evidence{File: cpFile, First: 1, Why: "there is no checkpoint"}
	} else if err != nil {
		return nil, err
	}
	cp, err := openCheckpoint(raw, verifier)
	if err != nil {
		return v.report, &Evidence{File: cpFile, First: 1, Why: err.Error()}
	}
	v.report.Checkpoint = *cp
	if opt.Checkpoint != nil {
		if v.kept, err = openCheckpoint(opt.Checkpoint, verifier); err != nil {
			return nil, fmt.Errorf("the checkpoint that was kept: %w", err)
		}
		if v.kept.Size > cp.Size {
			return v.report, &Evidence{File: cpFile, First: 1, Why: fmt.Sprintf("the log was rolled back: it has %d blocks, and had %d when the checkpoint that was kept was signed", cp.Size, v.kept.Size)}
		}
	}
	v.tiles = newTiles(dir, cp.Size)
	err = v.all()
	v.progress(true)
	return v.report, err
}

type verification struct {
	ctx    context.Context
	dir    string
	opt    VerifyOptions
	report *Report
	kept   *Checkpoint
	tiles  *tiles
	told   time.Time

	bytes, total int64

	// Where it stands.
	segment    string
	block      *tree
	blockFirst uint64
	blockAt    int64
	nextBlock  uint64
	previous   digest
	next       uint64 // record
	sealed     uint64 // last record in a sealed block
	run        string // of the last record
	mark       []byte // how its records' lines go on behind the number
	closed     bool   // that record ended its run
}

// wrong returns evidence at the line that in stands at, or, if in is nil, at a
// whole file.
func (v *verification) wrong(file string, in *lines, format string, args ...any) error {
	e := &Evidence{File: file, Block: v.nextBlock, First: v.sealed + 1, Why: fmt.Sprintf(format, args...)}
	if in != nil {
		e.Line, e.Offset = in.number, in.offset
	}
	return e
}

// file returns the segment's file as evidence names it.
func (v *verification) file() string {
	return filepath.Join(recordsName, v.segment+segmentEnding)
}

func (v *verification) progress(now bool) {
	if v.opt.Progress == nil || !now && time.Since(v.told) < time.Second/10 {
		return
	}
	v.told = time.Now()
	v.opt.Progress(Progress{Records: v.report.Records, Bytes: v.bytes, Total: v.total})
}

func (v *verification) all() error {
	names, strangers, err := segments(v.dir)
	if err != nil {
		return err
	}
	if len(strangers) > 0 {
		return v.wrong(filepath.Join(recordsName, strangers[0]), nil, "no segment has such a name")
	}
	for _, n := range names {
		if st, err := os.Stat(segmentPath(v.dir, n)); err == nil {
			v.total += st.Size()
		}
	}
	for i, n := range names {
		v.segment = n
		if n != segmentName(v.next) {
			return v.wrong(v.file(), nil, "record %d is expected next, so a segment is missing before this one, or it was renamed", v.next)
		}
		if err := v.one(i == len(names)-1); err != nil {
			return err
		}
		v.report.Segments++
	}
	r := v.report
	r.Unsealed = v.block.size
	r.Waiting = v.sealed - r.Covered
	r.Closed = v.closed && r.Unsealed == 0 && r.TornBytes == 0
	if v.nextBlock < r.Checkpoint.Size {
		return v.wrong(v.file(), nil, "the signed log holds %d blocks, but the segments end with block %d: records were cut off", r.Checkpoint.Size, int64(v.nextBlock)-1)
	}
	if file, why := v.tiles.finish(); why != "" {
		return v.wrong(file, nil, "%s", why)
	}
	if r.Checkpoint.hash != v.tiles.root() {
		return v.wrong(filepath.Join(logName, layout.CheckpointPath), nil, "the blocks do not add up to the root that was signed")
	}
	return nil
}

// one verifies a segment.
func (v *verification) one(isLast bool) error {
	f, err := os.Open(segmentPath(v.dir, v.segment))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	in := newLines(f, 0)
	before := v.bytes
	for {
		line, err := in.read()
		if in.number&0x3ff == 0 {
			if v.ctx.Err() != nil {
				return v.ctx.Err()
			}
			v.bytes = before + in.offset
			v.progress(false)
		}
		switch {
		case err == nil:
		case err == io.EOF:
			if !isLast && v.block.size > 0 {
				return v.wrong(v.file(), in, "the segment ends before its last block is sealed, and another follows: lines were cut off")
			}
			v.bytes = before + in.offset
			return nil
		case errors.Is(err, errTorn) && isLast:
			v.report.TornBytes = int64(len(line))
			return nil
		case errors.Is(err, errTorn), errors.Is(err, errLong):
			in.number++
			return v.wrong(v.file(), in, "%v", err)
		default:
			return fmt.Errorf("%s: %w", v.file(), err)
		}
		if bytes.HasPrefix(line, []byte(recordPrefix)) {
			err = v.record(in, line)
		} else {
			err = v.seal(in, line)
		}
		if err != nil {
			return err
		}
	}
}

// record verifies that a record may stand here, and adds it to the open block.
func (v *verification) record(in *lines, line []byte) error {
	seq, ok := recordSeq(line)
	if !ok {
		return v.wrong(v.file(), in, "neither a record nor a seal")
	}
	if seq != v.next {
		return v.wrong(v.file(), in, "record %d stands where record %d is expected", seq, v.next)
	}
	if !v.ofRun(line) {
		if err := v.begins(in, line, seq); err != nil {
			return err
		}
	} else if v.closed {
		return v.wrong(v.file(), in, "run %s goes on after the record that ends it", v.run)
	}
	v.closed = bytes.HasSuffix(line, []byte(`"event":"`+eventClosed+`"}`))
	if v.block.size == 0 {
		v.blockFirst, v.blockAt = seq, in.offset
	}
	v.block.add(v.block.leafHash(line))
	if v.report.First == 0 {
		v.report.First = seq
	}
	v.report.Records++
	v.report.Last = seq
	v.next++
	return nil
}

// ofRun reports whether a record's line is of the run that wrote the one
// before.
func (v *verification) ofRun(line []byte) bool {
	i := bytes.IndexByte(line, ',')
	return i > 0 && v.mark != nil && bytes.HasPrefix(line[i:], v.mark)
}

// begins verifies the first record of a run.
func (v *verification) begins(in *lines, line []byte, seq uint64) error {
	var j struct{ Run, Event string }
	if json.Unmarshal(line, &j) != nil || j.Run == "" || j.Event != eventOpened && j.Event != eventRecovered && j.Event != eventDamaged {
		return v.wrong(v.file(), in, "a run begins without the record that says so")
	}
	if j.Event != eventOpened || seq > 1 && !v.closed {
		v.report.Gaps = append(v.report.Gaps, Gap{Before: seq, Run: v.run})
	}
	v.run, v.mark = j.Run, []byte(`,"run":"`+j.Run+`"`)
	return nil
}

// seal verifies a seal against the records before it and against the log.
func (v *verification) seal(in *lines, line []byte) error {
	s, err := parseSeal(line)
	if err != nil {
		return v.wrong(v.file(), in, "neither a record nor a seal")
	}
	want := *s
	want.Block, want.Segment, want.Offset, want.Bytes = v.nextBlock, v.segment, v.blockAt, in.offset-v.blockAt
	want.First, want.Count, want.Previous = v.blockFirst, v.block.size, v.previous
	if v.block.size == 0 || *s != want {
		return v.wrong(v.file(), in, "the seal does not fit its place: records or seals were removed, inserted or moved")
	}
	if s.Root != v.block.root() {
		return v.wrong(v.file(), in, "a record of this block, from %d to %d, is not what was sealed", s.First, s.last())
	}
	leaf := v.block.leafHash(line)
	if v.nextBlock < v.report.Checkpoint.Size {
		if file, why := v.tiles.add(line, leaf); why != "" {
			if file == "" {
				return v.wrong(v.file(), in, "%s", why)
			}
			return v.wrong(file, nil, "%s", why)
		}
		v.report.Covered = s.last()
		if v.kept != nil && v.kept.Size == s.Block+1 && v.kept.hash != v.tiles.root() {
			return v.wrong(v.file(), in, "up to here the log is another than the one whose checkpoint was kept: it was rewritten")
		}
	}
	v.previous = leaf
	v.nextBlock = s.Block + 1
	v.sealed = s.last()
	v.block.reset()
	return nil
}
