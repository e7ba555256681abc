package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// A name that means one patient on every server is taken, and nothing else.
func TestAPatientIsNamedInOneWay(t *testing.T) {
	for in, fact := range map[string]string{
		"Patient/123":                   "123",
		"Patient/a-B.9":                 "a-B.9",
		"http://hospital.example/mrn|7": "http://hospital.example/mrn|7",
		"urn:oid:1.2.36.146.595|12345":  "urn:oid:1.2.36.146.595|12345",
		"HOSP|0815":                     "HOSP|0815",
	} {
		p, err := ParsePatient(in)
		if err != nil || p.Fact() != fact {
			t.Errorf("%q is %q, %v; want %q", in, p.Fact(), err, fact)
		}
	}
	for _, in := range []string{
		"", "123", "Patient", "Patient/", "patient/1", "Patient/1/_history/2", "Patient/1/", "Patient//1", "/Patient/1", "Patient/1 ", "Patient/1\n",
		"Patient/1,Patient/2", "Patient/" + strings.Repeat("9", 65), "http://evil.example/Patient/1", "urn:uuid:6f0c", "#p", "Patient?identifier=1",
		"Group/1", "|7", "HOSP|", "HOSP|7|8", "HO SP|7", "HOSP|7,8", `HOSP|7\`, "HOSP|7\x00", "HOSP|" + strings.Repeat("9", 300), "Patient/ä",
	} {
		if p, err := ParsePatient(in); !errors.Is(err, ErrInvalid) || p != "" {
			t.Errorf("%q was taken: %q, %v", in, string(p), err)
		} else if len(in) > 8 && strings.Contains(err.Error(), in) {
			t.Errorf("the refusal of %q repeats it: %v", in, err)
		}
	}
}

// However a record is printed, logged or written as JSON, it names no patient.
func TestARecordTellsNoPatient(t *testing.T) {
	r := pump("pump-1", 1)
	r.Patients = []Association{{Patient: "Patient/secret-7", Source: ByOperator}}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "record", r, "patient", r.Patients[0].Patient)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "record", r, "patients", r.Patients)
	written, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprint(r), fmt.Sprintf("%+v", r), fmt.Sprintf("%#v", r.Patients), fmt.Sprintf("%v %s %q %x", r.Patients, r.Patients[0].Patient, r.Patients[0].Patient, r.Patients[0].Patient),
		logged.String(), string(written),
	} {
		if strings.Contains(text, "secret-7") || strings.Contains(text, fmt.Sprintf("%x", "secret-7")) {
			t.Errorf("the patient is in %s", text)
		}
	}
}

type patientClock struct{ now time.Time }

func (c *patientClock) Now() time.Time { return c.now }

func facts(as []Association) string {
	var out []string
	for _, a := range as {
		out = append(out, a.Patient.Fact())
	}
	return strings.Join(out, " ")
}

func TestAssociationsComeAndGo(t *testing.T) {
	path, clock, ctx := filepath.Join(t.TempDir(), "registry.db"), &patientClock{time.Date(2026, 2, 16, 8, 0, 0, 0, time.UTC)}, context.Background()
	var g *Registry
	reopen := func() (done func()) {
		st, err := bolt.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if g, err = Open(ctx, st, Options{Clock: clock.Now}); err != nil {
			t.Fatal(err)
		}
		return func() { st.Close() }
	}
	done := reopen()
	if _, err := g.Create(ctx, pump("pump-1", 1)); err != nil {
		t.Fatal(err)
	}
	told := 0
	g.Subscribe(func(old, new *Record) { told++ })
	with := func(p string, until time.Time) Association {
		return Association{Patient: Patient(p), Until: until, Source: ByOperator, By: "local:nurse"}
	}
	is := func(when string, want string) {
		t.Helper()
		r, _ := g.Get("pump-1")
		if got := facts(r.PatientsAt(clock.now)); got != want {
			t.Fatalf("%s: associated with %q, want %q", when, got, want)
		}
	}
	must := func(r *Record, err error) *Record {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	is("at first", "")
	before, _ := g.Get("pump-1")
	rec := must(g.Associate(ctx, "pump-1", false, with("Patient/2", time.Time{})))
	if rec.Revision <= before.Revision || told != 1 || len(before.Patients) != 0 {
		t.Errorf("revision %d after %d, %d told, %d in the record that was handed out before", rec.Revision, before.Revision, told, len(before.Patients))
	}
	is("one", "2")
	began := rec.Patients[0].Since
	clock.now = clock.now.Add(time.Hour)
	must(g.Associate(ctx, "pump-1", false, with("Patient/10", clock.now.Add(time.Hour))))
	is("a second", "10 2")
	rec = must(g.Associate(ctx, "pump-1", false, with("Patient/2", clock.now.Add(3*time.Hour))))
	if a := rec.Patients[1]; !a.Since.Equal(began) || a.Until.IsZero() {
		t.Errorf("saying it again with an end gives %v to %v", a.Since, a.Until)
	}
	done()
	done = reopen()
	defer func() { done() }()
	is("after a restart", "10 2")
	clock.now = clock.now.Add(time.Hour)
	is("at the end of one", "2")
	must(g.Associate(ctx, "pump-1", true, with("HOSP|7", time.Time{})))
	is("only another", "HOSP|7")
	must(g.Dissociate(ctx, "pump-1", "Patient/2"))
	is("ending what is not there", "HOSP|7")
	must(g.Dissociate(ctx, "pump-1", "HOSP|7"))
	is("ended", "")
	must(g.Associate(ctx, "pump-1", false, with("Patient/1", time.Time{}), with("Patient/2", time.Time{})))
	must(g.Dissociate(ctx, "pump-1"))
	is("all ended", "")

	must(g.Associate(ctx, "pump-1", false, with("Patient/1", time.Time{})))
	must(g.SetStatus(ctx, "pump-1", Quarantined, ""))
	is("in quarantine", "1")
	must(g.SetStatus(ctx, "pump-1", Revoked, ""))
	is("revoked", "")
	done()
	done = reopen()
	is("revoked, after a restart", "")
	if _, err := g.Associate(ctx, "pump-1", false, with("Patient/1", time.Time{})); !errors.Is(err, ErrTransition) {
		t.Errorf("a revoked device was associated: %v", err)
	}
}

func TestWhatCanNotBeAssociatedChangesNothing(t *testing.T) {
	st, ctx := &memory{}, context.Background()
	g, err := Open(ctx, st, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Create(ctx, pump("pump-1", 1)); err != nil {
		t.Fatal(err)
	}
	good := Association{Patient: "Patient/1", Source: ByADT, By: "feed"}
	if _, err := g.Associate(ctx, "pump-1", false, good); err != nil {
		t.Fatal(err)
	}
	many := make([]Association, MaxPatients+1)
	for i := range many {
		many[i] = Association{Patient: Patient(fmt.Sprintf("Patient/%d", i)), Source: ByADT}
	}
	for name, as := range map[string][]Association{
		"a bare id":        {{Patient: "1", Source: ByADT}},
		"no source":        {{Patient: "Patient/2"}},
		"an unknown one":   {{Patient: "Patient/2", Source: "rumour"}},
		"an end gone by":   {{Patient: "Patient/2", Source: ByADT, Until: time.Now().Add(-time.Second)}},
		"a name too long":  {{Patient: "Patient/2", Source: ByADT, By: strings.Repeat("x", 300)}},
		"too many":         many,
		"one good, one no": {{Patient: "Patient/2", Source: ByADT}, {Patient: "x", Source: ByADT}},
	} {
		if _, err := g.Associate(ctx, "pump-1", true, as...); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := g.Associate(ctx, "pump-2", false, good); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown device: %v", err)
	}
	st.fail = errors.New("the disk is full")
	if _, err := g.Dissociate(ctx, "pump-1"); err == nil {
		t.Error("what could not be written was acknowledged")
	}
	st.fail = nil
	r, _ := g.Get("pump-1")
	if got := facts(r.PatientsAt(time.Now())); got != "1" {
		t.Errorf("associated with %q", got)
	}
	// What rests and can not be read is said, without saying what it is.
	st.rows[patientsTable]["pump-1"] = []byte(`[{"patient":"Patient/secret-9","since":"secret"}]`)
	if _, err := Open(ctx, st, Options{}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("opened with unreadable patients: %v", err)
	}
}
