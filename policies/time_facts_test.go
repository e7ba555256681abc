package policies_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/policies"
)

const timesData = `classes:
  ct-scanner:
    - {days: [friday], from: "22:00", until: "06:00"}
    - {days: [sunday], from: "01:00", until: "05:00"}
`

const windowsData = `only: {routes: [vendor]}
windows:
  a visit:
    once: {from: "2026-07-01T09:00", until: "2026-07-01T11:00"}
    opens: {routes: [vendor]}
`

// TestHoursAreTheFacilitys: hours and windows are in the facility's time, over
// midnight, in summer and winter, and every minute is asked for itself although
// decisions are remembered.
func TestHoursAreTheFacilitys(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones on this machine")
	}
	dir := t.TempDir()
	if err := policies.Write(dir); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"hours/hours.yaml": timesData, "maintenance/maintenance.yaml": windowsData} {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set, err := policy.Load(t.Context(), dir, policy.Options{Location: berlin})
	if err != nil {
		t.Fatal(err)
	}
	if ps := set.Uncacheable(); len(ps) > 0 {
		t.Fatalf("a rule reads a clock: %v", ps)
	}
	says := func(class, route string, at time.Time) string {
		d := set.Decide(context.Background(), &policy.Question{
			Device:      &device.Record{ID: "d-1", Class: class, Status: device.Active},
			Route:       &protocol.Route{Name: route, Environment: "production"},
			Transaction: &protocol.Transaction{Protocol: "http", Action: "GET"}, Now: at,
		})
		return strings.Join(d.Denials, "; ")
	}
	at := func(s string) time.Time {
		u, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for range 2 { // from memory, too
		for when, open := range map[string]bool{
			"2026-02-20T20:59:59Z": false, "2026-02-20T21:00:00Z": true, "2026-02-21T04:59:59Z": true, "2026-02-21T05:00:00Z": false, // a Friday in winter
			"2026-07-03T19:59:00Z": false, "2026-07-03T20:00:00Z": true, "2026-07-04T03:59:00Z": true, "2026-07-04T04:00:00Z": false, // and in summer
			"2026-03-29T00:30:00Z": true, "2026-03-29T01:30:00Z": true, "2026-03-29T02:59:00Z": true, "2026-03-29T03:00:00Z": false, // the night that lacks an hour
			"2026-10-25T00:30:00Z": true, "2026-10-25T01:30:00Z": true, "2026-10-25T04:00:00Z": false, // the one that has it twice
		} {
			if got := says("ct-scanner", "ehr", at(when)); strings.Contains(got, "do not work at this time") == open {
				t.Errorf("at %s: %q", when, got)
			}
		}
		for when, open := range map[string]bool{
			"2026-07-01T06:59:59Z": false, "2026-07-01T07:00:00Z": true, "2026-07-01T08:59:59Z": true, "2026-07-01T09:00:00Z": false, "2027-07-01T07:30:00Z": false,
		} {
			if got := says("ventilator", "vendor", at(when)); strings.Contains(got, "maintenance window only") == open {
				t.Errorf("at %s: %q", when, got)
			}
		}
	}
}
