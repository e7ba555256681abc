package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"time"
)

// An Entry is a record as it was read back. Raw holds all of it, the protocol's
// facts included.
type Entry struct {
	Seq   uint64    `json:"seq"`
	Run   string    `json:"run"`
	Time  time.Time `json:"time"`
	Kind  Kind      `json:"kind"`
	Event string    `json:"event"`

	Decision *EntryDecision `json:"decision"`

	Device       string `json:"device"`
	Class        string `json:"class"`
	Fingerprint  string `json:"fingerprint"`
	DeviceStatus string `json:"device_status"`
	// DeviceRevision is 0 in records of before it was recorded.
	DeviceRevision uint64    `json:"device_revision"`
	DevicePatients []string  `json:"device_patients"` // pseudonyms, unless the log is in clear
	Session        string    `json:"session"`
	Age            int64     `json:"age_s"` // seconds
	Listener       string    `json:"listener"`
	Remote         string    `json:"remote"`
	TLS            *EntryTLS `json:"tls"`

	Route       string `json:"route"`
	Backend     string `json:"backend"`
	Environment string `json:"environment"`
	RouteClass  string `json:"route_class"`
	Lane        bool   `json:"quarantine_lane"`
	// BreakGlass is the emergency grant under which it was decided, or nil.
	BreakGlass *EntryBreakGlass `json:"break_glass"`
	Operator   string           `json:"operator"`

	Request *EntryRequest   `json:"request"`
	Detail  json.RawMessage `json:"detail"`
	Error   string          `json:"error"`
	Omitted bool            `json:"omitted"` // too large: recorded without facts and detail

	Raw json.RawMessage `json:"-"` // the line
}

// An EntryDecision is a [Decision] as it was read back.
type EntryDecision struct {
	ID          string          `json:"id"`
	Allow       bool            `json:"allow"`
	WouldDeny   bool            `json:"would_deny"`
	OnFailure   bool            `json:"on_failure"`
	Cause       string          `json:"cause"`
	Reasons     []string        `json:"reasons"`
	Denials     []string        `json:"denials"`
	Obligations json.RawMessage `json:"obligations"`
	Tags        []string        `json:"tags"`
	Revision    string          `json:"revision"`
	Fault       string          `json:"fault"`
	Elapsed     time.Duration   `json:"ns"`
}

// An EntryTLS holds what is known of the connection.
type EntryTLS struct {
	Version string `json:"version"`
	Cipher  string `json:"cipher"`
	Group   string `json:"group"`
	SNI     string `json:"sni"`
	ALPN    string `json:"alpn"`
	Resumed bool   `json:"resumed"`
}

// An EntryBreakGlass is a [BreakGlass] as it was read back.
type EntryBreakGlass struct {
	ID     string    `json:"id"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"`
}

// An EntryRequest holds what every protocol's transaction has.
type EntryRequest struct {
	Protocol string `json:"protocol"`
	Action   string `json:"action"`
	Resource string `json:"resource"`
	Bytes    *int64 `json:"bytes"` // nil if not declared
	Of       string `json:"of"`
	Part     int    `json:"part"`
}

// A Filter chooses records. Empty fields choose all.
type Filter struct {
	Kind     Kind      `json:"kind,omitempty"`
	Event    string    `json:"event,omitempty"`
	Device   string    `json:"device,omitempty"`
	Class    string    `json:"class,omitempty"`
	Session  string    `json:"session,omitempty"`
	Listener string    `json:"listener,omitempty"`
	Route    string    `json:"route,omitempty"`
	Operator string    `json:"operator,omitempty"`
	Decision string    `json:"decision,omitempty"` // its id
	Tag      string    `json:"tag,omitempty"`      // of the decision, given by the policy set
	Allow    *bool     `json:"allow,omitempty"`    // records with a decision of that outcome
	Text     string    `json:"text,omitempty"`     // anywhere in the line, such as a [Pseudonym]
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
}

// Match reports whether the filter chooses e.
func (f *Filter) Match(e *Entry) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	d := e.Decision
	return is(string(f.Kind), string(e.Kind)) && is(f.Event, e.Event) && is(f.Device, e.Device) && is(f.Class, e.Class) &&
		is(f.Session, e.Session) && is(f.Listener, e.Listener) && is(f.Route, e.Route) && is(f.Operator, e.Operator) &&
		(f.Decision == "" || d != nil && d.ID == f.Decision) && (f.Allow == nil || d != nil && d.Allow == *f.Allow) &&
		(f.Tag == "" || d != nil && slices.Contains(d.Tags, f.Tag)) &&
		(f.Since.IsZero() || !e.Time.Before(f.Since)) && (f.Until.IsZero() || e.Time.Before(f.Until)) &&
		bytes.Contains(e.Raw, []byte(f.Text))
}

// A sieve is a filter and the texts without which no line can pass it: looking
// for them is some thirty times cheaper than decoding the line.
type sieve struct {
	Filter
	texts [][]byte
	all   bool // everything passes
}

func newSieve(f Filter) *sieve {
	s := &sieve{Filter: f, all: f == Filter{}}
	for _, v := range []string{string(f.Kind), f.Event, f.Device, f.Class, f.Session, f.Listener, f.Route, f.Operator, f.Decision, f.Tag} {
		if v != "" {
			s.texts = append(s.texts, appendJSON(nil, []byte(v)))
		}
	}
	if f.Text != "" {
		s.texts = append(s.texts, []byte(f.Text))
	}
	return s
}

// pass reports whether line may be chosen.
func (s *sieve) pass(line []byte) bool {
	for _, t := range s.texts {
		if !bytes.Contains(line, t) {
			return false
		}
	}
	return true
}

// ReadOptions say what to read.
type ReadOptions struct {
	FromSeq uint64 // the first record wanted; 0 means the oldest
	Last    int    // only the last so many that the filter chooses; 0 means all
	Filter  Filter
	// Follow waits for new records at the end, looking every Poll (0 means
	// 200 ms), until the context ends.
	Follow bool
	Poll   time.Duration
}

const defaultPoll = 200 * time.Millisecond

// Read returns the records in dir that the options choose, oldest first. It
// reads what is there, also while a gateway writes, and verifies nothing; see
// [Verify] for that. A line that is neither a record nor a seal yields an
// error, and reading goes on behind it if the caller does. The iteration ends
// with the context's error if that is what ended it.
func Read(ctx context.Context, dir string, opt ReadOptions) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		if opt.Poll <= 0 {
			opt.Poll = defaultPoll
		}
		r := &reader{ctx: ctx, dir: dir, opt: opt, sieve: newSieve(opt.Filter), yield: yield}
		if err := r.run(); err != nil && !errors.Is(err, errStop) {
			yield(nil, err)
		}
	}
}

// LineOptions say what [Lines] reads.
type LineOptions struct {
	Filter Filter
	// Bad is called for each line that is neither a record nor a seal.
	Bad func(error)
	// Progress is called now and then with the bytes read and the bytes there
	// are.
	Progress func(read, total int64)
}

// Lines hands f the lines of records, oldest first, leaving out those the
// filter surely does not choose: for readers of very many, who decode lines side
// by side with [Decode] and ask [Filter.Match] then. A line is valid during the
// call only.
func Lines(ctx context.Context, dir string, opt LineOptions, f func(line []byte) error) error {
	r := &reader{ctx: ctx, dir: dir, opt: ReadOptions{Filter: opt.Filter}, sieve: newSieve(opt.Filter)}
	r.yield = func(_ *Entry, err error) bool {
		if opt.Bad != nil {
			opt.Bad(err)
		}
		return true
	}
	names, _, err := segments(dir)
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	if len(names) == 0 {
		// No record yet is an empty log; no directory is a mistake.
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
	}
	names = r.start(names)
	var read, total int64
	for _, name := range names {
		if st, err := os.Stat(segmentPath(dir, name)); err == nil {
			total += st.Size()
		}
	}
	for _, name := range names {
		n, seen := 0, int64(0)
		end, err := r.segment(name, 0, func(line []byte) error {
			if seen += int64(len(line)) + 1; opt.Progress != nil {
				if n++; n%progressStride == 0 {
					opt.Progress(min(read+seen, total), total)
				}
			}
			return f(line)
		})
		if err != nil {
			return err
		}
		read += end
	}
	if opt.Progress != nil {
		opt.Progress(total, total)
	}
	return nil
}

// progressStride is how many lines pass between two words on progress.
const progressStride = 4096

// Decode reads a record's line, as [Lines] hands it out. The entry keeps it.
func Decode(line []byte) (*Entry, error) { return decode(line) }

// errStop: the caller wants no more.
var errStop = errors.New("stop")

type reader struct {
	ctx   context.Context
	dir   string
	opt   ReadOptions
	sieve *sieve
	yield func(*Entry, error) bool
}

func (r *reader) run() error {
	names, _, err := segments(r.dir)
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	names = r.start(names)
	var name string
	var offset int64
	if r.opt.Last > 0 {
		if name, offset, err = r.last(names); err != nil {
			return err
		}
	} else {
		for _, name = range names {
			if offset, err = r.segment(name, 0, r.emit); err != nil {
				return err
			}
		}
	}
	for r.opt.Follow {
		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-time.After(r.opt.Poll):
		}
		// Listed before the last segment is read on: if there is a later one then,
		// what is read now is all that one will ever hold.
		if names, _, err = segments(r.dir); err != nil {
			return err
		}
		if name != "" {
			if offset, err = r.segment(name, offset, r.emit); err != nil {
				return err
			}
		}
		for _, n := range names {
			if n > name {
				if offset, err = r.segment(n, 0, r.emit); err != nil {
					return err
				}
				name = n
			}
		}
	}
	return nil
}

// start leaves out the segments that hold nothing that is wanted.
func (r *reader) start(names []string) []string {
	for len(names) > 1 {
		next, _ := segmentSeq(names[1])
		if r.opt.FromSeq < next && (r.opt.Filter.Since.IsZero() || !r.older(names[1])) {
			break
		}
		names = names[1:]
	}
	return names
}

// older reports whether a segment begins before the time that is wanted, with a
// minute's room: records are in the order in which they were accepted, which
// may differ a little from that of their clocks.
func (r *reader) older(name string) bool {
	f, err := openAt(segmentPath(r.dir, name), 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	line, err := newLines(f, 0).read()
	if err != nil {
		return false
	}
	e, err := decode(line)
	return err == nil && e.Time.Before(r.opt.Filter.Since.Add(-time.Minute))
}

// segment hands the records of a segment from offset on to f, and returns where
// to go on.
func (r *reader) segment(name string, offset int64, f func(line []byte) error) (int64, error) {
	file, err := openAt(segmentPath(r.dir, name), offset)
	if err != nil {
		return offset, err
	}
	defer func() { _ = file.Close() }()
	in := newLines(file, offset)
	for {
		if in.number&0xff == 0 && r.ctx.Err() != nil {
			return in.offset, r.ctx.Err()
		}
		line, err := in.read()
		if err == io.EOF || errors.Is(err, errTorn) {
			return in.offset, nil // what comes may complete it
		}
		if err != nil {
			return in.offset, fmt.Errorf("%s: %w", name, err)
		}
		seq, ok := recordSeq(line)
		if !ok {
			if _, err := parseSeal(line); err != nil && !r.yield(nil, fmt.Errorf("segment %s, byte %d: neither a record nor a seal", name, in.offset)) {
				return in.offset, errStop
			}
			continue
		}
		if seq < r.opt.FromSeq || !r.sieve.pass(line) {
			continue
		}
		if err := f(line); err != nil {
			return in.offset, err
		}
	}
}

// emit yields the record in line if the filter chooses it.
func (r *reader) emit(line []byte) error {
	e, err := decode(bytes.Clone(line))
	if err == nil && !r.sieve.all && !r.sieve.Match(e) {
		return nil
	}
	if !r.yield(e, err) {
		return errStop
	}
	return nil
}

// last yields the last records that are chosen. It looks at one segment after
// the other, the newest first, until it has enough, and returns where the
// newest ends.
func (r *reader) last(names []string) (name string, end int64, err error) {
	var found [][]byte // the newest last
	for i := len(names) - 1; i >= 0 && len(found) < r.opt.Last; i-- {
		var here [][]byte
		room := r.opt.Last - len(found)
		at, err := r.segment(names[i], 0, func(line []byte) error {
			if !r.sieve.all {
				if e, err := decode(line); err == nil && !r.sieve.Match(e) {
					return nil
				}
			}
			if here = append(here, bytes.Clone(line)); len(here) > 2*room {
				here = append(here[:0], here[len(here)-room:]...)
			}
			return nil
		})
		if err != nil {
			return "", 0, err
		}
		if i == len(names)-1 {
			name, end = names[i], at
		}
		found = append(here[max(0, len(here)-room):], found...)
	}
	for _, line := range found {
		if err := r.emit(line); err != nil {
			return "", 0, err
		}
	}
	return name, end, nil
}

// decode reads a record's line, which the entry keeps.
func decode(line []byte) (*Entry, error) {
	e := &Entry{Raw: line}
	if err := json.Unmarshal(line, e); err != nil {
		return nil, fmt.Errorf("record that begins with %.40q: %w", line, err)
	}
	return e, nil
}
