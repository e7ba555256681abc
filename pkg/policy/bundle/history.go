package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// ErrNoRevision says that a History does not hold what was asked for.
var ErrNoRevision = errors.New("no such revision")

// A Conflict is the error that something is not possible as things are.
type Conflict string

func (c Conflict) Error() string { return string(c) }

const (
	historyFile = "history.json"
	// maxHistory bounds history.json: a thousand entries of a thousand bytes
	// each are a megabyte.
	maxHistory = 16 << 20
)

// An Entry is one revision that was pushed.
type Entry struct {
	// Number counts pushes from 1 and is never used again.
	Number int `json:"number"`
	// Revision is the set's content hash.
	Revision string `json:"revision"`
	Author   string `json:"author"`
	Message  string `json:"message"`
	// Pushed is when the gateway accepted it.
	Pushed time.Time `json:"pushed"`
	// Fingerprint is that of the certificate it was signed with.
	Fingerprint string `json:"fingerprint"`
	// Digest is the SHA-256 of the archive, in hex.
	Digest string `json:"digest"`
	Bytes  int    `json:"bytes"`
	// Forced is when it came into force for all devices last; zero if it never
	// did.
	Forced time.Time `json:"forced,omitzero"`
	// Previous is what was in force when it first came into force: 0 for the
	// directory.
	Previous int `json:"previous,omitempty"`
	// Ended is why a trial of it ended without promotion.
	Ended string `json:"ended,omitempty"`
}

// Short names the entry in a message.
func (e *Entry) Short() string {
	return fmt.Sprintf("%d (%s)", e.Number, e.Revision[:min(len(e.Revision), 12)])
}

// A Canary is the trial of a revision with some devices.
type Canary struct {
	Number  int      `json:"number"`
	Devices []string `json:"devices,omitempty"`
	Classes []string `json:"classes,omitempty"`
	// MaxDenials is how many transactions of life-critical devices it may deny,
	// within Window, that the set in force would have allowed.
	MaxDenials int           `json:"max_denials"`
	Window     time.Duration `json:"window"`
	Since      time.Time     `json:"since"`
}

// history is what is in history.json.
type history struct {
	Version int     `json:"version"`
	Next    int     `json:"next"`     // the next push's number
	InForce int     `json:"in_force"` // 0 until the first push that is no trial
	Canary  *Canary `json:"canary,omitempty"`
	Entries []Entry `json:"entries"` // in order of number
}

// A History keeps pushed revisions in a directory that one process owns: their
// signed archives, and which one is in force. What a method has returned is on
// stable storage; one that was cut off in between has either happened or not.
type History struct {
	dir string
	now func() time.Time

	mu  sync.Mutex
	cur history
}

// OpenHistory opens the history in a directory, which need not exist. It only
// reads; whoever does not own the directory may look, and sees what was true.
func OpenHistory(dir string, now func() time.Time) (*History, error) {
	h := &History{dir: dir, now: now, cur: history{Version: 1, Next: 1}}
	body, err := readLimited(filepath.Join(dir, historyFile), maxHistory)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("policy history: %w", err)
	}
	if err := json.Unmarshal(body, &h.cur); err != nil {
		return nil, fmt.Errorf("policy history: %s is damaged: %w; restore it from a backup", filepath.Join(dir, historyFile), err)
	}
	if h.cur.Version != 1 {
		return nil, fmt.Errorf("policy history: %s has version %d, and only 1 is known: it was written by a later anteroom", filepath.Join(dir, historyFile), h.cur.Version)
	}
	return h, nil
}

// sweep removes archives that a push left which was cut off, or that a trimmed
// history no longer names. What can not be removed takes room and no more.
func (h *History) sweep() {
	names, err := os.ReadDir(h.dir)
	if err != nil {
		return
	}
	for _, d := range names {
		n, ok := strings.CutSuffix(d.Name(), ".tar.gz")
		number, err := strconv.Atoi(n)
		if strings.HasPrefix(d.Name(), durable.TempPrefix) || ok && err == nil && h.find(number) == nil {
			_ = os.Remove(filepath.Join(h.dir, d.Name()))
		}
	}
}

func (h *History) find(number int) *Entry {
	for i := range h.cur.Entries {
		if h.cur.Entries[i].Number == number {
			return &h.cur.Entries[i]
		}
	}
	return nil
}

// Entries returns the revisions that are kept, oldest first.
func (h *History) Entries() []Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.cur.Entries)
}

// Last is the number of the last push; 0 if there was none.
func (h *History) Last() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cur.Next - 1
}

// InForce returns the revision in force for all devices but those of a trial;
// ok is false until there is one.
func (h *History) InForce() (e Entry, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.find(h.cur.InForce); p != nil {
		return *p, true
	}
	return Entry{}, false
}

// Canary returns the trial under way.
func (h *History) Canary() (c Canary, e Entry, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cur.Canary == nil {
		return Canary{}, Entry{}, false
	}
	p := h.find(h.cur.Canary.Number)
	if p == nil {
		return Canary{}, Entry{}, false
	}
	return *h.cur.Canary, *p, true
}

// Find returns the revision of a number, or of a content hash or the beginning
// of one; of several pushes of one content the last. The error wraps
// ErrNoRevision.
func (h *History) Find(ref string) (Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n, err := strconv.Atoi(ref); err == nil {
		if e := h.find(n); e != nil {
			return *e, nil
		}
	}
	var found *Entry
	if len(ref) >= minRef {
		for i := range h.cur.Entries {
			e := &h.cur.Entries[i]
			if !strings.HasPrefix(e.Revision, ref) {
				continue
			}
			if found != nil && found.Revision != e.Revision {
				return Entry{}, fmt.Errorf("%w: %q begins more than one; say more of it", ErrNoRevision, ref)
			}
			found = e
		}
	}
	if found == nil {
		return Entry{}, fmt.Errorf("%w: %q; policy history lists them", ErrNoRevision, ref)
	}
	return *found, nil
}

// minRef is the least of a content hash that names a revision.
const minRef = 4

// Before returns the revision that was in force before the one that is now came
// into force. What was rolled back in between is passed over. The error wraps
// ErrNoRevision.
func (h *History) Before() (Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.find(h.cur.InForce); e != nil {
		if p := h.find(e.Previous); p != nil {
			return *p, nil
		}
	}
	return Entry{}, fmt.Errorf("%w: nothing that is kept was in force before", ErrNoRevision)
}

// Archive returns the archive of a revision, as it was pushed. What is not what
// was pushed any more is an error.
func (h *History) Archive(number int) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.find(number)
	if e == nil {
		return nil, fmt.Errorf("%w: %d", ErrNoRevision, number)
	}
	path := h.path(number)
	body, err := readLimited(path, int64(e.Bytes))
	if err != nil {
		return nil, fmt.Errorf("policy revision %d: %w", number, err)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != e.Digest {
		return nil, fmt.Errorf("policy revision %d: %s is not what was pushed: it is damaged; restore it from a backup, or roll back to another revision", number, path)
	}
	return body, nil
}

func (h *History) path(number int) string {
	return filepath.Join(h.dir, fmt.Sprintf("%06d.tar.gz", number))
}

// Add keeps a pushed revision and puts it in force, or with canary on trial, in
// one step. Of the older ones all but keep are forgotten, never one in force or
// on trial. e's Number, Pushed, Digest, Bytes, Forced and Previous are filled in; after is
// the last number the author knew of, and the error is a Conflict if it is
// not the last.
func (h *History) Add(e Entry, archive []byte, after, keep int, canary *Canary) (Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if after != h.cur.Next-1 {
		return Entry{}, Conflict(fmt.Sprintf("revision %d was pushed since this one was made, or it was pushed before", h.cur.Next-1))
	}
	if c := h.cur.Canary; c != nil {
		return Entry{}, Conflict(fmt.Sprintf("revision %d is on trial; promote it or roll it back first", c.Number))
	}
	now := h.now().UTC()
	sum := sha256.Sum256(archive)
	e.Number, e.Pushed, e.Digest, e.Bytes, e.Forced, e.Ended = h.cur.Next, now, hex.EncodeToString(sum[:]), len(archive), time.Time{}, ""
	e.Previous = 0
	next := h.cur
	next.Next++
	if canary != nil {
		c := *canary
		c.Number, c.Since = e.Number, now
		next.Canary = &c
	} else {
		next.InForce, e.Forced, e.Previous = e.Number, now, next.InForce
	}
	next.Entries = trim(append(slices.Clone(next.Entries), e), keep, &next)
	// The archive first: the history must not name what is not there.
	if err := makeDir(h.dir); err != nil {
		return Entry{}, fmt.Errorf("keep policy revision: %w", err)
	}
	if err := durable.Replace(h.path(e.Number), archive, fileMode); err != nil {
		return Entry{}, fmt.Errorf("keep policy revision: %w", err)
	}
	if err := h.save(next); err != nil {
		return Entry{}, err
	}
	h.sweep()
	return e, nil
}

// trim forgets the oldest entries past keep.
func trim(es []Entry, keep int, h *history) []Entry {
	over := len(es) - max(keep, 1)
	return slices.DeleteFunc(es, func(e Entry) bool {
		if over <= 0 || e.Number == h.InForce || h.Canary != nil && e.Number == h.Canary.Number {
			return false
		}
		over--
		return true
	})
}

// Enforce puts a kept revision in force for all devices; a trial under way ends.
func (h *History) Enforce(number int, why string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.copy()
	e := next.entry(number)
	if e == nil {
		return fmt.Errorf("%w: %d", ErrNoRevision, number)
	}
	if c := next.Canary; c != nil && c.Number != number {
		next.entry(c.Number).Ended = why
	}
	if e.Forced.IsZero() {
		e.Previous = next.InForce
	}
	next.Canary, next.InForce, e.Forced, e.Ended = nil, number, h.now().UTC(), ""
	return h.save(next)
}

// EndCanary ends the trial under way without promotion.
func (h *History) EndCanary(why string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cur.Canary == nil {
		return Conflict("no revision is on trial")
	}
	next := h.copy()
	if e := next.entry(next.Canary.Number); e != nil {
		e.Ended = why
	}
	next.Canary = nil
	return h.save(next)
}

func (h *History) copy() history {
	next := h.cur
	next.Entries = slices.Clone(next.Entries)
	return next
}

func (h *history) entry(number int) *Entry {
	i := slices.IndexFunc(h.Entries, func(e Entry) bool { return e.Number == number })
	if i < 0 {
		return nil
	}
	return &h.Entries[i]
}

// save makes next durable, which is the moment at which it holds.
func (h *History) save(next history) error {
	body, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return fmt.Errorf("policy history: %w", err)
	}
	if err := durable.Replace(filepath.Join(h.dir, historyFile), append(body, '\n'), fileMode); err != nil {
		return fmt.Errorf("policy history: %w", err)
	}
	h.cur = next
	return nil
}

// fileMode is of all that is kept: nobody but the gateway reads it.
const fileMode fs.FileMode = 0o600

// makeDir makes a directory that survives a crash.
func makeDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(&countedReader{r: f, left: limit}); err != nil {
		if errors.Is(err, ErrTooLarge) {
			return nil, fmt.Errorf("%s is larger than it was", path)
		}
		return nil, err
	}
	return buf.Bytes(), nil
}
