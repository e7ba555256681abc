package admin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestEachDeviceIsWarnedOfOnceAtEachTime, over restarts, and anew for another
// certificate.
func TestEachDeviceIsWarnedOfOnceAtEachTime(t *testing.T) {
	t.Parallel()
	ahead := time.Duration(0)
	clock := func() time.Time { return time.Now().Add(ahead) }
	from, err := template()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyTree(t, from, dir)
	h := openHouseAt(t, dir, clock)
	h.enroll("pump-1", "infusion-pump") // a year
	h.enroll("ct-1", "ct-scanner")      // ten days: a week is more than a third of it
	h.enroll("pump-2", "infusion-pump")
	if _, err := h.state.Devices.SetStatus(t.Context(), "pump-2", device.Quarantined, ""); err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	warnings := func() (out []string) {
		t.Helper()
		ws, err := h.WarnExpiring(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range ws {
			out = append(out, fmt.Sprintf("%s %d", w.ID, w.Days))
		}
		return out
	}
	restart := func() {
		t.Helper()
		if err := h.state.Close(); err != nil {
			t.Fatal(err)
		}
		h = openHouseAt(t, dir, clock)
	}
	for _, step := range []struct {
		days int // since the beginning
		want []string
	}{
		{0, nil},
		{8, nil},
		{9, []string{"ct-1 1"}},
		{9, nil},
		{10, []string{"ct-1 0"}},
		{11, nil},
		{334, nil},
		{336, []string{"pump-1 30"}},
		{340, nil},
		{352, []string{"pump-1 14"}},
		{336, nil},                  // a clock that was set back
		{365, []string{"pump-1 0"}}, // none ran on the days before
		{366, nil},
	} {
		ahead = time.Duration(step.days)*day + time.Hour
		if got := warnings(); !slices.Equal(got, step.want) {
			t.Errorf("day %d: warned of %v, want %v", step.days, got, step.want)
		}
		restart()
		if got := warnings(); got != nil {
			t.Errorf("day %d, after a restart: warned of %v", step.days, got)
		}
	}
	st, err := h.api(Viewer).Status(t.Context())
	if err != nil || st.ExpiringWithin[0] != 2 || !slices.ContainsFunc(st.Warnings, func(w string) bool { return strings.Contains(w, "2 active devices have ended") }) {
		t.Errorf("status: %v, %v, %v", st.ExpiringWithin, st.Warnings, err)
	}
	// Renewed, it is warned of as any other.
	if _, err := h.api(Enroller).Renew(t.Context(), RenewRequest{ID: "ct-1", CSR: csr(t, "")}); err != nil {
		t.Fatal(err)
	}
	if got := warnings(); got != nil {
		t.Errorf("after the renewal: %v", got)
	}
	ahead += 9 * day
	if got := warnings(); !slices.Equal(got, []string{"ct-1 1"}) {
		t.Errorf("of the next certificate: %v", got)
	}
	if got := h.events(audit.Filter{Device: "ct-1"}); !slices.Equal(got, []string{"device.enrolled", "device.expiring", "device.expired", "device.renewed", "device.expiring"}) {
		t.Errorf("recorded: %v", got)
	}
	if got := h.events(audit.Filter{Device: "pump-2"}); !slices.Equal(got, []string{"device.enrolled"}) {
		t.Errorf("of a device in quarantine: %v", got)
	}
}
