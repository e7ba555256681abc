package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// warnedTable holds, by device, the last warning that was given of its
// certificate's end.
const warnedTable = "expiry-warned"

const aDay = 24 * time.Hour

// ExpiryDays are how many days before the end of a device's last certificate a
// warning is given, the nearest first; 0 is the end itself.
func ExpiryDays() []int { return []int{0, 1, 7, 14, 30} }

// warned is a warning that was given.
type warned struct {
	NotAfter time.Time `json:"not_after"`
	Days     int       `json:"days"`
}

// An ExpiryWarning says that the last certificate of a device ends soon.
type ExpiryWarning struct {
	ID       string
	NotAfter time.Time
	Days     int // of [ExpiryDays]
}

// WarnExpiring records in the audit log, for each active device and each of
// [ExpiryDays], once, that its last certificate ends within so many days, and
// returns what it recorded. That a warning was given is kept with the registry:
// neither a restart nor a clock that is set back gives it again. Of several that
// are due, such as after a time in which no gateway ran, the nearest is given.
//
// A certificate that is renewed often has little time left for all of its life:
// only what is at most a third of its lifetime is worth a word.
func (s *Service) WarnExpiring(ctx context.Context) ([]ExpiryWarning, error) {
	st, now := s.cfg.State, s.cfg.Clock()
	given := map[string]warned{}
	err := st.Store.View(ctx, func(r store.Reader) error {
		return r.Each(warnedTable, "", func(id string, value []byte) error {
			var w warned
			if err := json.Unmarshal(value, &w); err != nil {
				return fmt.Errorf("expiry warning of %s: %w", id, err)
			}
			given[id] = w
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	var due []ExpiryWarning
	f := device.Filter{Status: device.Active, ExpiresBefore: now.Add(time.Duration(ExpiryDays()[len(ExpiryDays())-1]) * aDay)}
	for _, rec := range st.Devices.List(f) {
		days, ok := dueWarning(rec, now)
		if g, was := given[rec.ID]; !ok || was && g.NotAfter.Equal(rec.Expires()) && g.Days <= days {
			continue
		}
		due = append(due, ExpiryWarning{rec.ID, rec.Expires(), days})
	}
	gone := s.overtaken(given)
	if len(due) == 0 && len(gone) == 0 {
		return nil, nil
	}
	// Recorded first: a warning that is given twice, because the process died
	// between the two, is better than one that is not.
	for _, w := range due {
		if err := st.Audit.Append(ctx, s.expiryRecord(w)); err != nil {
			return nil, err
		}
	}
	if err := st.Audit.Flush(ctx); err != nil {
		return nil, err
	}
	return due, st.Store.Update(ctx, func(w store.Writer) error {
		for _, d := range due {
			value, err := json.Marshal(warned{d.NotAfter, d.Days})
			if err != nil {
				return err
			}
			if err := w.Put(warnedTable, d.ID, value); err != nil {
				return err
			}
		}
		for _, id := range gone {
			if err := w.Delete(warnedTable, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// dueWarning returns the nearest warning that is due for a device.
func dueWarning(rec *device.Record, now time.Time) (days int, ok bool) {
	last := lastCertificate(rec)
	if last == nil {
		return 0, false
	}
	left, life := last.NotAfter.Sub(now), last.NotAfter.Sub(cmpTime(last.IssuedAt, last.NotBefore))
	for _, days := range ExpiryDays() {
		span := time.Duration(days) * aDay
		if left <= span {
			return days, span <= life/3
		}
	}
	return 0, false
}

// cmpTime returns the first of two times that is not the zero time.
func cmpTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

// lastCertificate returns the certificate that ends last of those that were not
// withdrawn, or nil.
func lastCertificate(rec *device.Record) (last *device.Certificate) {
	for i := range rec.Certificates {
		if c := &rec.Certificates[i]; c.RevokedAt.IsZero() && (last == nil || c.NotAfter.After(last.NotAfter)) {
			last = c
		}
	}
	return last
}

// overtaken returns the devices whose warnings are of no use any more: they have
// another certificate, or their status has none.
func (s *Service) overtaken(given map[string]warned) (ids []string) {
	for id, w := range given {
		rec, ok := s.cfg.State.Devices.Get(id)
		if !ok || rec.Status == device.Revoked || rec.Status == device.Retired || rec.Expires().After(w.NotAfter) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (s *Service) expiryRecord(w ExpiryWarning) *audit.Record {
	event, why := "device.expiring", fmt.Sprintf("the last certificate of %s ends within %s", w.ID, plural(w.Days, "day"))
	if w.Days == 0 {
		event, why = "device.expired", "the last certificate of "+w.ID+" has ended, and the device is let in no more until it is renewed"
	}
	r := &audit.Record{Kind: audit.KindDevice, Event: event, Device: w.ID, Error: why, Detail: []protocol.Field{
		{Name: "days", Value: protocol.String(strconv.Itoa(w.Days))}, {Name: "not_after", Value: protocol.String(w.NotAfter.UTC().Format(time.RFC3339))},
	}}
	if rec, ok := s.cfg.State.Devices.Get(w.ID); ok {
		r.Class, r.DeviceStatus = rec.Class, string(rec.Status)
	}
	return r
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// ExpiryCounts returns how many active devices' last certificates end within so many
// days each, the nearer ones counted with the farther.
func (s *Service) ExpiryCounts(within ...int) map[int]int {
	now, by := s.cfg.Clock(), make([]time.Time, len(within))
	for i, days := range within {
		by[i] = now.Add(time.Duration(days) * aDay)
	}
	out := make(map[int]int, len(within))
	for i, n := range s.cfg.State.Devices.Ending(by...) {
		out[within[i]] = n
	}
	return out
}

// describeExpiry fills in what ends first.
func (s *Service) describeExpiry(out *Status) {
	active := slices.DeleteFunc(s.cfg.State.Devices.List(device.Filter{Status: device.Active}), func(r *device.Record) bool { return r.Expires().IsZero() })
	slices.SortFunc(active, func(a, b *device.Record) int {
		return cmp.Or(a.Expires().Compare(b.Expires()), cmp.Compare(a.ID, b.ID))
	})
	for _, r := range active[:min(len(active), mostExpiring)] {
		out.Expiring = append(out.Expiring, DeviceExpiry{r.ID, r.Expires()})
	}
	out.ExpiringWithin = s.ExpiryCounts(ExpiryDays()...)
	if n := out.ExpiringWithin[0]; n > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the certificates of %s have ended: device list --expiring 1h names them", plural(n, "active device")))
	}
	if n := out.ExpiringWithin[7] - out.ExpiringWithin[0]; n > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the certificates of %s end within 7 days: device list --expiring 7d names them", plural(n, "active device")))
	}
}
