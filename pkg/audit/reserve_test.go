package audit

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

// TestADeviceHasItsShareOfTheReserve: in bytes of disk, whatever it says of what its
// records are a part of; and another device has its own.
func TestADeviceHasItsShareOfTheReserve(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const size, room = 500, 1 << 30
	o := &outage{room: room}
	use := func(device string, size int) (n int) {
		for ; o.takes(device, size, now); n++ {
			o.charge(device, size, now)
		}
		return n
	}
	burst := int(shareBurst / shareOf(size))
	if n := use("monitor-1", size); n != burst || o.room != room-int64(n)*onDisk(size) {
		t.Errorf("%d records at once, want %d; %d bytes are left", n, burst, o.room)
	}
	if n := use("monitor-2", 10*size); n != burst/10 {
		t.Errorf("%d records of another device, of ten times the size, want %d", n, burst/10)
	}
	now = now.Add(time.Second)
	if n := use("monitor-1", size); n < 1 || n > int(time.Second/shareOf(size))+1 {
		t.Errorf("%d records a second later", n)
	}
	now = now.Add(-time.Hour)
	if n := use("monitor-1", size); n != 0 {
		t.Errorf("%d records after the clock was set back", n)
	}
	now = now.Add(shareBurst)
	if n := use("monitor-1", size); n != burst {
		t.Errorf("%d records after a rest by that clock, want %d", n, burst)
	}
	if n := use("monitor-3", int(shareBurst.Seconds())*shareRate); n != 0 {
		t.Error("a record that is larger than any share")
	}
	if n := use("", size); n != 0 {
		t.Error("a record of nobody")
	}
	o.room = onDisk(size) - 1
	if n := use("monitor-4", size); n != 0 {
		t.Error("more than there is")
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
	r.Transaction.Facts = append(r.Transaction.Facts, protocol.Field{Name: "x", Value: protocol.String(strings.Repeat("x", 20<<10))})
	if err := l.Append(t.Context(), r); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a record that is larger than a share: %v", err)
	}
}
