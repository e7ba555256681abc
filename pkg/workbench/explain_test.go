package workbench

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

func TestExplainFindsADecisionAndMakesItAgain(t *testing.T) {
	w := newWard(t)
	id := w.decide("patient-monitor-1", fhir("read", "Patient", "p3"))
	dir := w.audit()
	e, err := Find(t.Context(), dir, id, nil)
	if err != nil {
		t.Fatal(err)
	}
	x, err := ExplainRecord(t.Context(), w.set, e, w.devices)
	if err != nil || !x.Same() || x.Allow || x.NotAsked != "" || x.Recorded.What != "fhir read Patient" || len(x.Rules) == 0 {
		t.Fatalf("%+v, %v", x, err)
	}
	var b strings.Builder
	x.Trace(&b)
	if !strings.Contains(b.String(), "authz") {
		t.Errorf("trace %q", b.String())
	}
	// The record names the patient by a pseudonym, and the set reads whose own
	// record it is by the id.
	if len(x.Caveats) != 1 || !strings.Contains(x.Caveats[0], "input.request.fhir.id, input.request.http.path: recorded as a pseudonym") {
		t.Errorf("caveats %q", x.Caveats)
	}
	if x, _ := ExplainRecord(t.Context(), w.load("authz/no.rego", noPatients), e, w.devices); x.Same() || !x.Allow {
		t.Errorf("another set: %+v", x)
	}
	x, err = ExplainRecord(t.Context(), w.set, e, DeviceList{})
	if err != nil || len(x.Caveats) != 2 || !strings.Contains(x.Caveats[0], "the registry has no such device any more") {
		t.Errorf("%q, %v", x.Caveats, err)
	}
	if _, err := Find(t.Context(), filepath.Join(dir, "elsewhere"), id, nil); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNoRecord) {
		t.Errorf("a log that is not there: %v", err)
	}
	if _, err := Find(t.Context(), dir, "none", nil); !errors.Is(err, ErrNoRecord) {
		t.Errorf("%v", err)
	}
}

func TestExplainSaysWhyNoPolicyWasAsked(t *testing.T) {
	w := newWard(t)
	tx := fhir("read", "X", "")
	w.append(&audit.Record{Kind: audit.KindTransaction, Event: "transaction.refused", Transaction: tx, Error: "two lengths", Decision: &audit.Decision{ID: "r", Cause: "malformed"}})
	w.append(&audit.Record{Kind: audit.KindTransaction, Event: decided, Transaction: tx, Decision: &audit.Decision{ID: "f", Cause: "fault", Fault: "it broke", Revision: "r"}})
	w.append(&audit.Record{Kind: audit.KindTransaction, Event: decided, Transaction: tx, Decision: &audit.Decision{ID: "q", Cause: "device", Revision: "r", Denials: []string{"quarantined"}}})
	for id, want := range map[string]string{"r": "could not be understood: two lengths", "f": "it broke", "q": "refused it by itself"} {
		e, err := Find(t.Context(), w.audit(), id, nil)
		if err != nil {
			t.Fatal(err)
		}
		x, err := ExplainRecord(t.Context(), w.set, e, w.devices)
		if err != nil || !strings.Contains(x.NotAsked, want) || x.Rules != nil {
			t.Errorf("%s: %+v, %v", id, x, err)
		}
	}
}

func TestARequestIsReadAsItIsWritten(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	rec := &device.Record{ID: "m", Class: "patient-monitor", Status: device.Active}
	q, err := ParseRequest([]byte(`{"request": {"protocol": "fhir", "action": "read", "resource": "Patient", "bytes": 7, "fhir": {"type": "Patient"}},
		"session": {"remote_ip": "10.0.0.1", "listener": "l", "age_s": 60, "tls": {"Version": "1.3"}}, "route": {"name": "ehr"}, "time": "2026-01-31T12:00:00Z"}`), rec, now)
	if err != nil {
		t.Fatal(err)
	}
	if tx := q.Transaction; tx.Protocol != "fhir" || tx.Action != "read" || tx.Resource != "Patient" || tx.Bytes != 7 || len(tx.Facts) != 1 || tx.Facts[0].Name != "fhir" {
		t.Errorf("%+v", tx)
	}
	if q.Session.Remote.Addr().String() != "10.0.0.1" || q.Now.Sub(q.Session.Started) != time.Minute || q.Route.Name != "ehr" ||
		q.Route.Environment != "production" || q.Route.Class != protocol.Clinical || q.Now.Hour() != 12 || q.Device != rec {
		t.Errorf("%+v", q)
	}
	if q, err := ParseRequest([]byte(`{"request": {}}`), rec, now); err != nil || !q.Now.Equal(now) || q.Transaction.Bytes != -1 {
		t.Errorf("%+v, %v", q, err)
	}
	for _, bad := range []string{``, `[]`, `{"request": 1}`, `{"request": {"a": 1.5}}`, `{"request": {}, "session": {"remote": ""}}`,
		`{"request": {}, "session": {"remote_ip": "x"}}`, `{"request": {}, "time": "noon"}`, strings.Repeat(" ", MaxRequest+1)} {
		if _, err := ParseRequest([]byte(bad), rec, now); err == nil {
			t.Errorf("%.40s: read", bad)
		}
	}
}

// FuzzParseRequest: whatever is written, it is read or refused.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"request": {"protocol": "fhir", "fhir": {"x": [1, null, true]}}, "time": "2026-01-31T12:00:00Z"}`))
	f.Add([]byte(`{"seq":1,"decision":{"id":"x","allow":true,"revision":"r"},"kind":"transaction","event":"transaction.decided","request":{"protocol":"http"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := ParseRequest(body, &device.Record{ID: "m"}, time.Unix(0, 0))
		if err == nil && (q.Transaction == nil || !json.Valid(body)) {
			t.Errorf("read %q", body)
		}
	})
}

// TestALineOfTheLogIsARequest: what audit search --json prints can be tried.
func TestALineOfTheLogIsARequest(t *testing.T) {
	w := newWard(t)
	w.decide("patient-monitor-1", fhir("create", "Observation", "p3"))
	e, err := Find(t.Context(), w.audit(), "d00001", nil)
	if err != nil {
		t.Fatal(err)
	}
	q, err := ParseRequest(e.Raw, w.devices["patient-monitor-1"], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if d := w.set.Decide(t.Context(), q); !d.Allow {
		t.Errorf("%+v", d)
	}
}
