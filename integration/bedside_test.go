package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// bedsideData holds monitors to the patients they are associated with.
const bedsideData = "patient-monitor: {fhir: {compartment: {held: [write, search], except: [Communication]}}}\n"

func observationOf(patient string) string {
	return fmt.Sprintf(`{"resourceType":"Observation","status":"final","code":{"text":"pulse"},"subject":{"reference":%q}}`, patient)
}

// TestABedsideDeviceWritesForItsPatientOnly: by itself, in a batch and in a
// transaction, over one connection that stays open while nurses associate and
// dissociate; and what is refused never reaches the FHIR server.
func TestABedsideDeviceWritesForItsPatientOnly(t *testing.T) {
	peers.Need(t, "fhir-server")
	server := peers.StartFHIR(t, "")
	h := rig.New(t)
	h.Configure(ehr(server))
	h.Write("policies/classes/bedside.yaml", bedsideData)
	h.Must("policy", "check", "policies")
	h.Start()
	monitor, meter := h.Enroll("monitor-1", "patient-monitor"), h.Enroll("meter-1", "glucose-meter")
	c := h.Client(monitor)

	post := func(c *http.Client, path, body string) reply {
		t.Helper()
		return ask(t, c, http.MethodPost, h.URL(path), body, "Content-Type", fhirJSON)
	}
	single := func(patient string) int {
		t.Helper()
		return post(c, "/fhir/Observation", observationOf(patient)).status
	}
	bundle := func(kind string, patients ...string) string {
		var entries []string
		for _, p := range patients {
			entries = append(entries, `{"resource":`+observationOf(p)+`,"request":{"method":"POST","url":"Observation"}}`)
		}
		return `{"resourceType":"Bundle","type":"` + kind + `","entry":[` + strings.Join(entries, ",") + `]}`
	}
	// stored are the patients of what reached the server since it was last asked.
	stored := func() (out []string) {
		t.Helper()
		for _, a := range server.Arrivals() {
			for _, p := range []string{"Patient/1", "Patient/2"} {
				if strings.Contains(a.Body, `"`+p+`"`) {
					out = append(out, p)
				}
			}
		}
		server.Reset()
		return out
	}
	const one, two = "Patient/1", "Patient/2"

	if s := single(one); s != http.StatusForbidden {
		t.Errorf("associated with nobody: %d", s)
	}
	h.Must("device", "associate", "monitor-1", "--patient", one)
	for patient, want := range map[string]int{
		one: http.StatusCreated, one + "/_history/1": http.StatusCreated, two: http.StatusForbidden, "Patient/12": http.StatusForbidden,
		"http://evil.example/Patient/1": http.StatusForbidden, "urn:uuid:1": http.StatusForbidden, "Patient?_id=1": http.StatusForbidden,
	} {
		if s := single(patient); s != want {
			t.Errorf("an observation of %s: %d, want %d", patient, s, want)
		}
	}
	// Over HTTP/2 as well.
	if r := post(h.Client2(monitor), "/fhir/Observation", observationOf(two)); r.status != http.StatusForbidden || strings.Contains(string(r.body), "Patient/2") {
		t.Errorf("over HTTP/2: %d %s", r.status, r.body)
	}
	if got := stored(); !slices.Equal(got, []string{one}) {
		t.Errorf("stored of %q", got)
	}
	if r := post(c, "/fhir", bundle("transaction", one, one)); r.status != http.StatusOK {
		t.Errorf("a transaction of its patient: %d %s", r.status, r.body)
	}
	if got := stored(); !slices.Equal(got, []string{one}) {
		t.Errorf("stored of %q", got)
	}
	if r := post(c, "/fhir", bundle("transaction", one, two)); r.status != http.StatusForbidden {
		t.Errorf("a transaction with another's entry: %d %s", r.status, r.body)
	}
	if got := stored(); len(got) != 0 {
		t.Errorf("of a refused transaction, stored of %q", got)
	}
	if r := post(c, "/fhir", bundle("batch", one, two)); r.status != http.StatusOK || !strings.Contains(string(r.body), `"403`) || !strings.Contains(string(r.body), `"201`) {
		t.Errorf("a batch with another's entry: %d %s", r.status, r.body)
	}
	if got := stored(); !slices.Equal(got, []string{one}) {
		t.Errorf("of a batch, stored of %q", got)
	}
	// Alarms go out whoever it is, and who is not held to anybody pays nothing.
	if r := post(c, "/fhir/Communication", `{"resourceType":"Communication","status":"completed","subject":{"reference":"Patient/2"}}`); r.status != http.StatusCreated {
		t.Errorf("an alarm: %d %s", r.status, r.body)
	}
	if r := post(h.Client(meter), "/fhir/Observation", observationOf(two)); r.status != http.StatusCreated {
		t.Errorf("a meter, which is not held to a patient: %d %s", r.status, r.body)
	}
	// What is answered from memory is not the answer of before.
	for range 2 {
		h.Must("device", "dissociate", "monitor-1")
		if s := single(one); s != http.StatusForbidden {
			t.Errorf("dissociated: %d", s)
		}
		h.Must("device", "associate", "monitor-1", "--patient", two, "--only")
		if a, b := single(one), single(two); a != http.StatusForbidden || b != http.StatusCreated {
			t.Errorf("associated with the other: %d and %d", a, b)
		}
		h.Must("device", "dissociate", "--patient", two)
		h.Must("device", "associate", "monitor-1", "--patient", one)
		if a, b := single(one), single(two); a != http.StatusCreated || b != http.StatusForbidden {
			t.Errorf("associated again: %d and %d", a, b)
		}
	}
	h.Must("audit", "verify")
	if out := h.Must("audit", "search", "--json"); strings.Contains(out, "Patient/1") || strings.Contains(out, "Patient/12") {
		t.Error("the audit log names a patient")
	}
	if logs := h.Logs(); strings.Contains(logs, "Patient/") {
		t.Error("the gateway's log names a patient")
	}
	if m := h.Metrics(); strings.Contains(m, "Patient/") {
		t.Error("the metrics name a patient")
	}
}

// TestAWebSocketEndsWithItsAssociation: what was decided once and goes on is
// judged anew when a device's patient is gone, also by the clock.
func TestAWebSocketEndsWithItsAssociation(t *testing.T) {
	e := startEcho(t)
	h := rig.New(t)
	h.Configure(fmt.Sprintf("routes:\n  - {name: live, path: /live, websocket: true, backend: b}\nbackends:\n  - {name: b, addresses: [%q], ca_file: %q}\n", e.addr, e.ca))
	h.Write("policies/authz/live.rego", `package anteroom.authz

allow contains "a device at a bedside has a live channel" if {
	input.request.protocol == "http"
	input.device.status == "active"
	count(input.device.patients) > 0
}
`)
	h.Start()
	d := h.Enroll("monitor-1", "patient-monitor", "--location", "bed-4")
	if _, resp, err := dial(t, h, d, "/live/waveform"); err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Fatalf("without a patient: %v", err)
	}
	h.Must("device", "associate", "--location", "bed-4", "--patient", "Patient/1")
	c := open(t, h, d)
	say(t, c, "hello")
	h.Must("device", "dissociate", "monitor-1")
	end(t, c)
	h.Must("device", "associate", "monitor-1", "--patient", "Patient/1")
	c = open(t, h, d)
	say(t, c, "hello")
	h.Must("device", "associate", "monitor-1", "--patient", "Patient/1", "--for", "1s")
	end(t, c)
	if _, resp, err := dial(t, h, d, "/live/waveform"); err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("after the end: %v", err)
	}
	rig.Eventually(t, "the record of the end", func() bool {
		return strings.Contains(h.Must("audit", "search", "--event", "device.dissociated"), "its time was over")
	})
}
