package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// TestTheReserveTakesWhatMayGoThere: with nearly no disk left, records that may go
// into the reserve are taken until that is used up, are durable when they are, and
// are in the one log that everything is in. Others are refused as ever.
func TestTheReserveTakesWhatMayGoThere(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{osDisk: osDisk{filepath.Join(dir, recordsName)}, left: 1 << 30}
	cfg := testConfig(dir)
	cfg.disk, cfg.retry = disk, time.Millisecond
	cfg.Audit.MinFree = 1 << 20
	l := must(t, cfg)
	fill(t, l, 3)
	free := func(n uint64) { disk.set(func(d *faulty) { d.left = n }) }
	r := sample()
	put := func(id string, reserve bool) error {
		r.Reserve, r.Decision.OnFailure, r.Decision.ID = reserve, reserve, id
		return l.Append(t.Context(), r)
	}
	free(1<<20 - 1)
	eventually(t, "the outage", func() bool {
		_ = put("before", false)
		return !l.Status().Healthy
	})
	eventually(t, "the reserve", func() bool { return l.Status().Reserve > 0 })
	if err := put("refused", false); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without claim to it: %v", err)
	}
	if err := put("alarm", true); err != nil {
		t.Fatal(err)
	}
	if st := l.Status(); st.Flushed != st.Seq || st.Healthy {
		t.Errorf("not durable: %+v", st)
	}
	// Half of min_free is others' to write in.
	free(1 << 19)
	eventually(t, "the end of the reserve", func() bool { return errors.Is(put("late", true), ErrUnavailable) && l.Status().Reserve == 0 })
	// What the disk refuses is not recorded, whatever the reserve.
	free(1<<20 - 1)
	eventually(t, "the reserve again", func() bool { return put("again", true) == nil })
	disk.set(func(d *faulty) { d.write = syscall.ENOSPC })
	if err := put("lost", true); !errors.Is(err, ErrUnavailable) {
		t.Errorf("on a disk that takes nothing: %v", err)
	}
	if err := put("stuck", true); !errors.Is(err, ErrUnavailable) || l.Status().Reserve != 0 {
		t.Errorf("on a disk that is known to take nothing: %v", err)
	}
	disk.set(func(d *faulty) { d.write, d.left = nil, 1<<30 })
	eventually(t, "the end of the outage", func() bool { return l.Status().Healthy })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for e, err := range Read(t.Context(), dir, ReadOptions{Filter: Filter{Kind: KindTransaction}}) {
		if err != nil {
			t.Fatal(err)
		}
		found[e.Decision.ID]++
	}
	for e, err := range Read(t.Context(), dir, ReadOptions{Filter: Filter{Kind: KindTransaction}}) {
		if err == nil && e.Decision.ID == "alarm" && !e.Decision.OnFailure {
			t.Error("the record does not say why it is there")
		}
	}
	if found["alarm"] != 1 || found["again"] == 0 || found["refused"]+found["stuck"] != 0 {
		t.Errorf("in the log: %v", found)
	}
}

// nearly is a log with nearly no disk left, and a clock that stands still.
type nearly struct {
	*Log
	t    *testing.T
	dir  string
	disk *faulty
	now  atomic.Int64
}

const nearlyFree = 64 << 20 // min_free

func newNearly(t *testing.T) *nearly {
	t.Helper()
	n := &nearly{t: t, dir: t.TempDir()}
	n.disk = &faulty{osDisk: osDisk{filepath.Join(n.dir, recordsName)}, left: 1 << 30}
	n.now.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	cfg := testConfig(n.dir)
	cfg.disk, cfg.retry, cfg.Clock = n.disk, time.Millisecond, func() time.Time { return time.Unix(0, n.now.Load()) }
	cfg.Audit.MinFree, cfg.Audit.RotateSize = nearlyFree, 1<<20
	n.Log = must(t, cfg)
	n.leave(nearlyFree - 1)
	return n
}

// leave leaves so many bytes, and waits for the log to have seen it.
func (n *nearly) leave(free uint64) {
	n.t.Helper()
	n.disk.set(func(d *faulty) { d.left = free })
	want := max(0, int64(free)-nearlyFree/reserveKept+nearlyFree/followKept)
	eventually(n.t, "the outage to begin, or to end", func() bool {
		if free > nearlyFree {
			return n.Status().Healthy
		}
		_ = n.Append(n.t.Context(), &Record{Kind: KindTransaction, Event: "refused"})
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.down != nil && n.down.room == want
	})
}

// use has a device put records into the reserve until that takes no more.
func (n *nearly) use(device string, r *Record) (taken int) {
	r.Reserve, r.Device = true, device
	for ; taken < 1000; taken++ {
		r.Decision.ID = fmt.Sprintf("%s-%d", device, taken)
		if err := n.Append(n.t.Context(), r); err != nil {
			if !errors.Is(err, ErrUnavailable) {
				n.t.Fatal(err)
			}
			break
		}
	}
	return taken
}

// filled is a sample with a fact more.
func filled(v protocol.Value) *Record {
	r := sample()
	r.Transaction.Facts = append(r.Transaction.Facts, protocol.Field{Name: "x", Value: v})
	return r
}

// greedy are records that are longer on disk than in the buffer, some of them by far.
func greedy() map[string]*Record {
	patients := make([]protocol.Value, 500)
	for i := range patients {
		patients[i] = protocol.Sensitive(fmt.Sprintf("%02d", i%100))
	}
	kept := filled(protocol.List(patients...))
	kept.Fixed, kept.FixedRequest = Fix(kept), FixRequest(kept.Transaction)
	return map[string]*Record{
		"ordinary":           sample(),
		"many patients":      filled(protocol.List(patients...)),
		"written before":     kept,
		"patients unnamed":   filled(protocol.List(protocol.Sensitive(""), protocol.Sensitive(""))),
		"control characters": filled(protocol.String(strings.Repeat("\x01\x7f", 1000))),
		"no text at all":     filled(protocol.String(strings.Repeat("\xff", 2000))),
		"marks of direction": filled(protocol.String(strings.Repeat("\u202e", 700))),
		"many small things": filled(protocol.List(slices.Repeat([]protocol.Value{protocol.Bool(true), protocol.Bool(false), protocol.Int(-1), protocol.String(""),
			protocol.Object(), protocol.List(), {}}, 100)...)),
		"a name that is odd": filled(protocol.Object(protocol.Field{Name: strings.Repeat("\x02", 300), Value: protocol.Bool(true)})),
	}
}

// TestARecordIsChargedWhatItTakes: neither less than its line takes on disk, whatever a
// device has put in there, nor much more.
func TestARecordIsChargedWhatItTakes(t *testing.T) {
	for _, identifiers := range []string{"", "clear"} {
		key := []byte("key")
		if identifiers == "clear" {
			key = nil
		}
		l := &Log{cfg: Config{Audit: config.Audit{Identifiers: identifiers}}}
		for name, r := range greedy() {
			tokens := appendRecord(nil, r, time.Now(), true)
			line, err := newEncoder(newRun(), key).line(nil, 1, tokens)
			if err != nil {
				t.Fatal(err)
			}
			size, cost := int64(len(line)+1), l.cost(tokens)-sealPart
			if cost < size || cost > size+size/4+64 || costMost(len(tokens))-sealPart < size {
				t.Errorf("%s, identifiers %q: a line of %d bytes costs %d, and %d at most", name, identifiers, size, cost, costMost(len(tokens)))
			}
		}
		huge := appendRecord(nil, filled(protocol.String(strings.Repeat("x", 70<<10))), time.Now(), true)
		escaped := appendRecord(nil, filled(protocol.List(slices.Repeat([]protocol.Value{protocol.String("\x01\x01\x01\x01")}, 9<<10)...)), time.Now(), true)
		if l.cost(huge) != costMost(len(huge)) || l.cost(escaped) != costMost(len(escaped)) {
			t.Error("what is past any share does not count as the most it may be")
		}
	}
}

// TestADeviceHasItsShareOfTheReserve: in bytes of disk, whatever its records are made
// of; and another device has its own.
func TestADeviceHasItsShareOfTheReserve(t *testing.T) {
	const burst = int64(shareBurst/time.Second) * shareRate
	n := newNearly(t)
	for name, r := range greedy() {
		if taken := n.use(name, r); taken == 0 || taken > 30 {
			t.Errorf("%s: %d records at once", name, taken)
		}
	}
	ordinary := n.use("monitor-1", sample())
	if ordinary < 12 {
		t.Errorf("%d ordinary records at once", ordinary)
	}
	n.now.Add(int64(time.Second))
	if k := n.use("monitor-1", sample()); k < 1 || k > 2 {
		t.Errorf("%d records a second later", k)
	}
	n.now.Add(-int64(time.Hour))
	if k := n.use("monitor-1", sample()); k != 0 {
		t.Errorf("%d records after the clock was set back", k)
	}
	n.now.Add(int64(shareBurst))
	if k := n.use("monitor-1", sample()); k != ordinary {
		t.Errorf("%d records after a rest by that clock, want %d", k, ordinary)
	}
	if k := n.use("monitor-2", filled(protocol.String(strings.Repeat("x", int(burst))))); k != 0 {
		t.Error("a record that is larger than any share")
	}
	if k := n.use("", sample()); k != 0 {
		t.Error("a record of nobody")
	}
	n.leave(nearlyFree/reserveKept + 1000)
	if k := n.use("monitor-3", sample()); k != 0 {
		t.Error("more than there is")
	}
	mustClose(t, n.Log)
	used := map[string]int64{}
	paths, err := filepath.Glob(filepath.Join(n.dir, recordsName, "*"+segmentEnding))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if _, rest, ok := strings.Cut(line, `"device":"`); ok {
				device, _, _ := strings.Cut(rest, `"`)
				used[device] += int64(len(line))
			}
		}
	}
	for name, r := range greedy() {
		if r.Fixed.json != nil {
			name = "monitor-0042" // which is written in there
		}
		if used[name] == 0 || used[name] > burst {
			t.Errorf("%s took %d bytes of the disk, of %d", name, used[name], burst)
		}
	}
}

// TestAShareOutlastsAnOutage: a disk at the brink gives nobody a new one, and who has
// paid is forgotten.
func TestAShareOutlastsAnOutage(t *testing.T) {
	n := newNearly(t)
	if k := n.use("monitor-1", sample()); k == 0 {
		t.Fatal("no record was taken")
	}
	n.leave(1 << 30)
	n.leave(nearlyFree - 1)
	if k := n.use("monitor-1", sample()); k != 0 {
		t.Errorf("%d records more in an outage that began anew", k)
	}
	n.now.Add(int64(shareBurst))
	eventually(t, "it to be forgotten", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.shares) == 0
	})
}

// TestWhatWentOnCanBeFollowedUp: the record that says it was not delivered has been
// paid for, fits when nothing else does, and there is one of it.
func TestWhatWentOnCanBeFollowedUp(t *testing.T) {
	n := newNearly(t)
	follow := func(id string) error {
		return n.Append(t.Context(), &Record{Kind: KindTransaction, Event: "transaction.undelivered", Device: "monitor-1", Class: "patient-monitor",
			Session: "s-5e8f2a91c044", Listener: "devices", Remote: sample().Remote, Error: "no connection to the backend is to be had",
			Decision: &Decision{ID: id, Allow: true}, FollowsUp: true})
	}
	if n.use("monitor-1", sample()) < 5 {
		t.Fatal("too few records were taken")
	}
	part := sample()
	part.Transaction.Of = "envelope"
	if n.use("monitor-2", part) == 0 {
		t.Fatal("no entry was taken")
	}
	n.leave(nearlyFree/reserveKept - 1)
	for id, want := range map[string]bool{"monitor-1-0": true, "monitor-1-3": true, "monitor-2-0": false, "d0": false, "": false} {
		if err := follow(id); (err == nil) != want || err != nil && !errors.Is(err, ErrUnavailable) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := follow("monitor-1-0"); err == nil {
		t.Error("one that went on was followed up twice")
	}
	long := &Record{Kind: KindTransaction, Device: "monitor-1", Error: strings.Repeat("x", followUp), Decision: &Decision{ID: "monitor-1-1"}, FollowsUp: true}
	if err := n.Append(t.Context(), long); err == nil {
		t.Error("a record was taken that is longer than what was paid for")
	}
	n.leave(1 << 30)
	n.leave(nearlyFree/reserveKept - 1)
	if err := follow("monitor-1-2"); err != nil {
		t.Errorf("in the next outage: %v", err)
	}
	n.leave(nearlyFree/reserveKept - nearlyFree/followKept)
	if err := follow("monitor-1-4"); err == nil {
		t.Error("more was taken than there is")
	}
	mustClose(t, n.Log)
	if es := events(t, n.dir, "transaction.undelivered"); len(es) != 3 {
		t.Errorf("%d records, want 3", len(es))
	}
}

// TestAReportPaysForWhatMayFollowIt: before it goes on; an entry of a Bundle does not,
// which is followed up with all of that.
func TestAReportPaysForWhatMayFollowIt(t *testing.T) {
	const cost = 2000
	now := time.Now()
	for of, price := range map[string]int64{"": cost + followUp, "envelope": cost} {
		r := &Record{Reserve: true, Device: "monitor-1", Decision: &Decision{ID: "a"}, Transaction: &protocol.Transaction{Of: of}}
		l := &Log{down: &outage{room: nearlyFree}, shares: shares{}, passed: newTrail(9)}
		l.shares[r.Device] = now.Add(shareBurst - shareOf(price) + 1)
		if l.takes(r, cost, now) {
			t.Errorf("of %q: with less of its share left than it has to pay", of)
		}
		l.shares[r.Device] = now.Add(shareBurst - shareOf(price))
		if !l.takes(r, cost, now) {
			t.Errorf("of %q: with just as much left", of)
		}
		l.charge(r, cost, now)
		if owed := l.shares.owed(r.Device, now); owed != shareBurst || l.down.room != nearlyFree-cost || len(l.passed.ids) == 1 != (of == "") {
			t.Errorf("of %q: it owes %s, %d bytes are left, and %v may be followed up", of, owed, l.down.room, l.passed.ids)
		}
	}
}

// TestOnlyTheLastThatWentOnAreKnown: what is kept of them is bounded.
func TestOnlyTheLastThatWentOnAreKnown(t *testing.T) {
	tr := newTrail(3)
	for _, id := range []string{"a", "b", "c", "d", ""} {
		tr.add(id)
	}
	if _, ok := tr.ids["a"]; ok || len(tr.ids) != 3 {
		t.Errorf("%v", tr.ids)
	}
	if tr = newTrail(1 << 40); len(tr.last) != maxFollowUps {
		t.Errorf("%d are kept", len(tr.last))
	}
	tr = newTrail(0)
	if tr.add("a"); len(tr.ids) > 0 {
		t.Error("one that there is no room for")
	}
}

// TestTheReserveIsNotPromisedTwice: what was accepted and is not on disk yet takes room
// as well; and where disk is not what is wanting, there is none.
func TestTheReserveIsNotPromisedTwice(t *testing.T) {
	disk := &faulty{left: nearlyFree - 1}
	cfg := Config{Clock: time.Now, Logger: slog.New(slog.DiscardHandler), disk: disk, Audit: config.Audit{MinFree: nearlyFree}}
	l := &Log{cfg: cfg, tlog: &tlog{}, owing: 3000, writing: 50000}
	w := &writer{log: l, cfg: &cfg}
	const all = nearlyFree - 1 - nearlyFree/reserveKept + nearlyFree/followKept
	if w.checkSpace(); l.down.room != all-53000 || l.down.late != nearlyFree/followKept {
		t.Errorf("%+v", l.down)
	}
	l.owing = 2 * nearlyFree
	if w.checkSpace(); l.down.room != 0 {
		t.Errorf("%+v", l.down)
	}
	l.owing, l.writing = 0, 0
	if w.checkSpace(); l.down.room != all {
		t.Errorf("%+v", l.down)
	}
	l.tlog.queue = make([]entry, maxUnlogged)
	if w.checkSpace(); l.down.room != 0 {
		t.Errorf("with a transparency log that takes nothing: %+v", l.down)
	}
}

// TestWhatIsAcceptedIsOwed: until it is on disk.
func TestWhatIsAcceptedIsOwed(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Audit.FlushTime = config.Duration(time.Hour)
	l := must(t, cfg)
	owed := func() int64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.owing + l.writing
	}
	for range 2 {
		before := owed()
		if err := l.Append(t.Context(), sample()); err != nil {
			t.Fatal(err)
		}
		if owed()-before < 10000 {
			t.Errorf("a record owes %d bytes", owed()-before)
		}
	}
	if err := l.Flush(t.Context()); err != nil || owed() != 0 {
		t.Errorf("%d bytes are owed: %v", owed(), err)
	}
}

// TestEntriesOfABundleComeOutOfItsDevicesShare: whatever they are a part of, the log
// sees each record.
func TestEntriesOfABundleComeOutOfItsDevicesShare(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{osDisk: osDisk{filepath.Join(dir, recordsName)}, left: 1 << 30}
	cfg := testConfig(dir)
	now := time.Now()
	cfg.disk, cfg.retry, cfg.Clock = disk, time.Millisecond, func() time.Time { return now }
	cfg.Audit.MinFree, cfg.Audit.RotateSize = 1<<30, 1<<20
	l := must(t, cfg)
	disk.set(func(d *faulty) { d.left = 1<<30 - 1 })
	r := sample()
	eventually(t, "the outage", func() bool { return l.Append(t.Context(), r) != nil })
	r.Reserve, r.Transaction.Of = true, "envelope"
	burst := int(shareBurst.Seconds()) * shareRate / 1024
	n := 0
	for ; n <= burst; n++ {
		r.Transaction.Part = n
		if err := l.Append(t.Context(), r); err != nil {
			break
		}
	}
	if n < 8 || n >= burst {
		t.Errorf("%d entries of one device were taken", n)
	}
	r.Device = "monitor-0043"
	r.Transaction.Facts = append(r.Transaction.Facts, protocol.Field{Name: "x", Value: protocol.String(strings.Repeat("x", 70<<10))})
	if err := l.Append(t.Context(), r); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a record that is larger than a share: %v", err)
	}
}
