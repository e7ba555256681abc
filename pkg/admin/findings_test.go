package admin

import (
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/finding"
)

// TestARevocationIsTheEndOfWhatWasFound: it was what the finding asked for, and it
// makes no place known, so that a copy of the next key is news again.
func TestARevocationIsTheEndOfWhatWasFound(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	see := func() {
		t.Helper()
		if _, news, err := h.state.Findings.See(t.Context(), "pump-1", finding.Clone, "two places", "192.0.2.1", "192.0.2.2"); err != nil || !news {
			t.Errorf("it is news: %v, %v", news, err)
		}
	}
	see()
	api := h.api(AllRoles...)
	out, err := api.Findings(t.Context(), "")
	if err != nil || len(out.Findings) != 1 || out.Findings[0].Advice == "" {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := api.SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: device.Revoked}); err != nil {
		t.Fatal(err)
	}
	if out, err = api.Findings(t.Context(), ""); err != nil || len(out.Findings) != 0 {
		t.Errorf("after the revocation: %+v, %v", out, err)
	}
	if out, err = api.Findings(t.Context(), "pump-1"); err != nil || len(out.Findings) != 1 || out.Findings[0].Advice != "" {
		t.Errorf("of the device: %+v, %v", out, err)
	}
	see()
	if _, err := api.Accept(t.Context(), AcceptRequest{ID: "pump-1", Kind: finding.Clock}); err == nil {
		t.Error("what was not found is accepted")
	}
	if _, err := api.Findings(t.Context(), "pump-9"); err == nil {
		t.Error("findings of a device that is not there")
	}
}

func TestHowWrongAClockIsIsSaidInWords(t *testing.T) {
	t.Parallel()
	for ahead, want := range map[time.Duration]string{
		0: "right", -1500 * time.Millisecond: "2s slow", 90 * time.Second: "1m30s fast", -3 * time.Hour: "3h0m0s slow", 24 * 365 * time.Hour: "365 days fast",
	} {
		if got := ClockError(ahead); got != want {
			t.Errorf("%v: %q, want %q", ahead, got, want)
		}
	}
}
