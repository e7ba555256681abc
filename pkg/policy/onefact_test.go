package policy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// TestEveryFactIsInTheKey changes one fact of a question at a time: no other
// question is it any more.
func TestEveryFactIsInTheKey(t *testing.T) {
	s := reachSet(t, `allow contains "x" if count(input) > 0`)
	change := map[string]func(*Question){
		"nothing":        func(*Question) {},
		"an hour later":  func(q *Question) { q.Now = q.Now.Add(time.Hour) },
		"a second later": func(q *Question) { q.Now = q.Now.Add(time.Second) }, // the session's age
		"never assessed": func(q *Question) { q.Device.Posture.AssessedAt = time.Time{} },
		"a week later": func(q *Question) { // the date alone
			q.Device.Posture.AssessedAt = time.Time{}
			q.Now, q.Session.Started = q.Now.AddDate(0, 0, 7), q.Session.Started.AddDate(0, 0, 7)
		},
		"a month later": func(q *Question) {
			q.Device.Posture.AssessedAt = time.Time{}
			q.Now, q.Session.Started = q.Now.AddDate(0, 0, 28), q.Session.Started.AddDate(0, 0, 28)
		},
		"another id":          func(q *Question) { q.Device.ID = "x" },
		"another class":       func(q *Question) { q.Device.Class = "x" },
		"another status":      func(q *Question) { q.Device.Status = device.Quarantined },
		"another tag":         func(q *Question) { q.Device.Tags = map[string]string{"bed": "8"} },
		"life critical":       func(q *Question) { q.Device.LifeCritical = true },
		"another CVSS":        func(q *Question) { q.Device.Posture.MaxCVSS = 5.4 },
		"another firmware":    func(q *Question) { q.Device.Posture.Firmware = "4.3" },
		"assessed later":      func(q *Question) { q.Device.Posture.AssessedAt = q.Device.Posture.AssessedAt.Add(time.Second) },
		"another certificate": func(q *Question) { q.Device.Certificates[0].NotAfter = noon.AddDate(2, 0, 0) },
		"a patient":           func(q *Question) { q.Device.Patients = []device.Association{{Patient: "Patient/p1"}} },
		"hardware":            func(q *Question) { q.Device.Certificates[0].HardwareBacked = true },
		"another address":     func(q *Question) { q.Session.Remote = netip.MustParseAddrPort("10.1.2.4:4567") },
		"another network":     func(q *Question) { q.Session.Remote = netip.MustParseAddrPort("[2001:db8::1]:4567") },
		"another IPv6":        func(q *Question) { q.Session.Remote = netip.MustParseAddrPort("[2001:db8::2]:4567") },
		"another listener":    func(q *Question) { q.Session.Listener = "x" },
		"TLS 1.2":             func(q *Question) { q.Session.TLS.Version = "1.2" },
		"another cipher":      func(q *Question) { q.Session.TLS.Cipher = "x" },
		"another group":       func(q *Question) { q.Session.TLS.Group = "x" },
		"another name":        func(q *Question) { q.Session.TLS.SNI = "x" },
		"HTTP/1.1":            func(q *Question) { q.Session.TLS.ALPN = "http/1.1" },
		"another route":       func(q *Question) { q.Route.Name = "x" },
		"another backend":     func(q *Question) { q.Route.Backend = "x" },
		"another environment": func(q *Question) { q.Route.Environment = "x" },
		"another route class": func(q *Question) { q.Route.Class = protocol.LifeSafety },
		"a lane":              func(q *Question) { q.Route.Lane = true },
		"another protocol":    func(q *Question) { q.Transaction.Protocol = "x" },
		"another action":      func(q *Question) { q.Transaction.Action = "x" },
		"another resource":    func(q *Question) { q.Transaction.Resource = "x" },
		"more bytes":          func(q *Question) { q.Transaction.Bytes = 901 },
		"another fact":        func(q *Question) { q.Transaction.Facts[0] = httpFacts("PUT", "fhir", "Observation") },
	}
	seen := map[string]string{}
	for what, f := range change {
		q := ask("pump", fhirAsks("create", "Observation"))
		f(q)
		key := string(keyOf(s, q))
		if other, there := seen[key]; there {
			t.Errorf("%s and %s are one question", other, what)
		}
		seen[key] = what
	}
}

// TestAnEqualHashIsNoAnswer: what is found is compared as bytes.
func TestAnEqualHashIsNoAnswer(t *testing.T) {
	c := newCache(4)
	c.put(asked{&keyWriter{b: []byte("a")}, 7}, Decision{Allow: true})
	if _, ok := c.find(asked{&keyWriter{b: []byte("a")}, 7}); !ok {
		t.Error("an answer was not remembered")
	}
	if d, ok := c.find(asked{&keyWriter{b: []byte("b")}, 7}); ok {
		t.Errorf("another question is answered %+v", d)
	}
}

// TestAnAnswerIsForItsQuestionOnly: it is recalled for no other route, no other
// record of the device, no other set and in no emergency.
func TestAnAnswerIsForItsQuestionOnly(t *testing.T) {
	dir := setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.class == "pump"`)})
	s := load(t, dir, Options{})
	q := ask("pump", fhirAsks("create", "Observation"))
	d := s.Decide(t.Context(), q)
	kept := s.Keep(q, &d)
	if _, ok := s.Recall(kept, q); !ok {
		t.Fatal("an answer was not kept")
	}
	route, rec := *q, *q
	route.Route = routeTo("ehr")
	changed := *q.Device
	rec.Device = &changed
	for what, other := range map[string]*Question{"route": &route, "record": &rec} {
		if _, ok := s.Recall(kept, other); ok {
			t.Errorf("an answer was recalled for another %s", what)
		}
	}
	if _, ok := load(t, dir, Options{}).Recall(kept, q); ok {
		t.Error("an answer was recalled by another set")
	}
}
