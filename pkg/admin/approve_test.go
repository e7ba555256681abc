package admin

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// within reports whether one of its callers is a function of a name.
func within(name string) bool {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, name) {
			return true
		}
		if !more {
			return false
		}
	}
}

// TestWhatIsMadeWhileADeviceIsRevokedIsTakenBack: a token and an approval that are
// made in the moment of a revocation do not outlive it.
func TestWhatIsMadeWhileADeviceIsRevokedIsTakenBack(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"enrol.(*Tokens).Create", "enrol.(*Newcomers).Approve"} {
		var revoke atomic.Pointer[func()] // the clock is asked from everywhere
		clock := func() time.Time {
			if revoke.Load() != nil && within(where) {
				(*revoke.Swap(nil))()
			}
			return time.Now()
		}
		h := newHouse(t)
		if err := h.state.Close(); err != nil {
			t.Fatal(err)
		}
		h = openHouseAt(t, h.dir, clock)
		api := h.api(AllRoles...)
		if _, err := api.Import(t.Context(), ImportRequest{Devices: []device.Record{{ID: "pump-1", Class: "infusion-pump", Manufacturer: "Acme", Serial: "1"}}}); err != nil {
			t.Fatal(err)
		}
		revoked := false
		do := func() {
			if _, err := api.SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: device.Revoked, Reason: "stolen"}); err != nil {
				t.Error(err)
			}
			revoked = true
		}
		revoke.Store(&do)
		if where == "enrol.(*Tokens).Create" {
			_, err := api.Token(t.Context(), TokenRequest{ID: "pump-1", TTL: time.Hour})
			if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeConflict {
				t.Errorf("the token: %v", err)
			}
		} else {
			rows, err := api.Approve(t.Context(), ApproveRequest{IDs: []string{"pump-1"}})
			if err != nil || len(rows) != 1 || rows[0].Outcome != ApprovalRefused || rows[0].Error == "" {
				t.Errorf("the approval: %+v, %v", rows, err)
			}
		}
		tokens, err := api.Tokens(t.Context())
		if err != nil || len(tokens) != 0 {
			t.Errorf("tokens: %+v, %v", tokens, err)
		}
		waiting, err := api.Waiting(t.Context())
		if err != nil || len(waiting) != 0 {
			t.Errorf("approvals: %+v, %v", waiting, err)
		}
		if !revoked || slices.Contains([]device.Status{device.Active, device.Pending}, h.record(t, "pump-1").Status) {
			t.Fatal("the test revoked nothing")
		}
	}
}

func (h *house) record(t *testing.T, id string) *device.Record {
	t.Helper()
	rec, ok := h.state.Devices.Get(id)
	if !ok {
		t.Fatalf("%s is not there", id)
	}
	return rec
}
