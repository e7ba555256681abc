package admin

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

func names(b *Bedside) (out []string) {
	for _, a := range b.Patients {
		out = append(out, string(a.Patient))
	}
	return out
}

// TestAnAssociationIsKeptAndRecorded: it is durable before it is acknowledged,
// and neither the record nor a list of devices says who the patient is.
func TestAnAssociationIsKeptAndRecorded(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	api := h.api(Enroller)
	bs, err := api.Associate(t.Context(), AssociateRequest{ID: "pump-1", Patients: []string{"Patient/secret-7"}, For: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if len(bs) != 1 || bs[0].Device != "pump-1" || !slices.Equal(names(bs[0]), []string{"Patient/secret-7"}) {
		t.Fatalf("got %+v", bs)
	}
	if a := bs[0].Patients[0]; a.By != "jane" || a.Source != device.ByOperator || time.Until(a.Until) > time.Hour || a.Until.IsZero() {
		t.Errorf("by %s of %s until %v", a.By, a.Source, a.Until)
	}
	after := h.killed()
	b, err := after.api(SecurityOfficer).Patients(t.Context(), "pump-1")
	if err != nil || !slices.Equal(names(b), []string{"Patient/secret-7"}) {
		t.Fatalf("after a crash: %+v, %v", b, err)
	}
	if err := after.state.Audit.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"device.enrolled", "device.associated", "device.patients-shown"}
	if got := after.events(audit.Filter{Device: "pump-1"}); !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
	for e, err := range audit.Read(t.Context(), after.state.Config().Audit.Dir, audit.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(e.Raw), "secret") {
			t.Errorf("the record names the patient: %s", e.Raw)
		}
	}
	for _, call := range []func() (any, error){
		func() (any, error) { return api.List(t.Context(), ListRequest{}) },
		func() (any, error) { return api.Show(t.Context(), "pump-1") },
		func() (any, error) {
			return api.SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: device.Quarantined})
		},
	} {
		v, err := call()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range asRecords(v) {
			if len(r.Patients) != 0 {
				t.Errorf("%T came with patients", v)
			}
		}
	}
	if _, err := api.Dissociate(t.Context(), DissociateRequest{ID: "pump-1"}); err != nil {
		t.Fatal(err)
	}
	if b, _ := h.killed().api(Enroller).Patients(t.Context(), "pump-1"); len(b.Patients) != 0 {
		t.Errorf("what was ended came back: %+v", b)
	}
}

func asRecords(v any) []*device.Record {
	switch v := v.(type) {
	case *device.Record:
		return []*device.Record{v}
	case []*device.Record:
		return v
	}
	return nil
}

// TestWhoMaySeePatients: the others are told how many there are, and nothing is
// recorded as shown.
func TestWhoMaySeePatients(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	if _, err := h.api(Enroller).Associate(t.Context(), AssociateRequest{ID: "pump-1", Patients: []string{"Patient/1", "HOSP|2"}}); err != nil {
		t.Fatal(err)
	}
	for _, r := range AllRoles {
		b, err := h.api(r).Patients(t.Context(), "pump-1")
		if err != nil {
			t.Fatal(err)
		}
		if sees := r == Enroller || r == SecurityOfficer; sees != (len(b.Patients) == 2) || sees != (b.Withheld == 0) {
			t.Errorf("%s is shown %+v", r, b)
		}
	}
	if err := h.state.Audit.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(h.events(audit.Filter{Event: "device.patients-shown"})); n != 2 {
		t.Errorf("recorded as shown %d times, want 2", n)
	}
}

// TestAdmissionTransferDischarge are what the hospital's feed will ask for.
func TestAdmissionTransferDischarge(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	at := func(id, location string) {
		h.enroll(id, "patient-monitor")
		if _, err := h.state.Devices.Update(t.Context(), id, func(r *device.Record) error { r.Location = location; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	at("a-1", "bed-1")
	at("a-2", "bed-1")
	at("b-1", "bed-2")
	feed := Actor{Name: "adt:main"}
	is := func(want map[string]string) {
		t.Helper()
		for id, p := range want {
			r, _ := h.state.Devices.Get(id)
			if got := strings.Join(names(h.bedside(r)), " "); got != p {
				t.Errorf("%s is associated with %q, want %q", id, got, p)
			}
		}
	}
	admit := func(location string) {
		t.Helper()
		if _, err := h.Associate(t.Context(), feed, &AssociateRequest{Location: location, Patients: []string{"HOSP|7"}, Only: true, Feed: feed.Name}); err != nil {
			t.Fatal(err)
		}
	}
	discharge := func() {
		t.Helper()
		if _, err := h.Dissociate(t.Context(), feed, &DissociateRequest{Patients: []string{"HOSP|7"}}); err != nil {
			t.Fatal(err)
		}
	}
	admit("bed-1")
	is(map[string]string{"a-1": "HOSP|7", "a-2": "HOSP|7", "b-1": ""})
	if r, _ := h.state.Devices.Get("a-1"); r.Patients[0].Source != device.ByADT || r.Patients[0].By != "adt:main" {
		t.Errorf("it is said to be %s of %s", r.Patients[0].Source, r.Patients[0].By)
	}
	discharge()
	admit("bed-2")
	is(map[string]string{"a-1": "", "a-2": "", "b-1": "HOSP|7"})
	discharge()
	is(map[string]string{"a-1": "", "a-2": "", "b-1": ""})
	// An operator does not speak for the feed.
	if _, err := h.Do(t.Context(), Actor{Name: "jane", Roles: AllRoles}, "device.associate", []byte(`{"id":"a-1","patients":["Patient/1"],"feed":"adt:main","Feed":"adt:main"}`)); err != nil {
		t.Fatal(err)
	}
	if r, _ := h.state.Devices.Get("a-1"); r.Patients[0].Source != device.ByOperator || r.Patients[0].By != "jane" {
		t.Errorf("jane spoke as %s of %s", r.Patients[0].Source, r.Patients[0].By)
	}
}

// TestRefusedAssociations: the reason repeats no name, not even in the record.
func TestRefusedAssociations(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	for name, r := range map[string]AssociateRequest{
		"nobody":        {ID: "pump-1"},
		"nothing":       {Patients: []string{"Patient/secret"}},
		"both":          {ID: "pump-1", Location: "icu", Patients: []string{"Patient/secret"}},
		"another place": {ID: "pump-1", Patients: []string{"http://evil.example/Patient/secret"}},
		"two ends":      {ID: "pump-1", Patients: []string{"Patient/secret"}, For: time.Hour, Until: time.Now().Add(time.Hour)},
		"a past end":    {ID: "pump-1", Patients: []string{"Patient/secret"}, Until: time.Unix(1, 0)},
		"a past span":   {ID: "pump-1", Patients: []string{"Patient/secret"}, For: -time.Hour},
		"no such place": {Location: "icu", Patients: []string{"Patient/secret"}},
		"no such":       {ID: "pump-9", Patients: []string{"Patient/secret"}},
	} {
		_, err := h.api(Enroller).Associate(t.Context(), r)
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalid && e.Code != CodeNotFound || strings.Contains(e.Message, "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]DissociateRequest{
		"nothing": {}, "both": {ID: "pump-1", Location: "icu"}, "a bare id": {Patients: []string{"7"}}, "no such": {ID: "pump-9"},
	} {
		if _, err := h.api(Enroller).Dissociate(t.Context(), r); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if err := h.state.Audit.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(h.state.Config().Audit.Dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "secret") {
			t.Errorf("%s names the patient", f)
		}
	}
}

// TestAnAssociationEndsAtItsTime: the registry forgets it and the log says so.
func TestAnAssociationEndsAtItsTime(t *testing.T) {
	t.Parallel()
	from, err := template()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyTree(t, from, dir)
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	h := openHouseAt(t, dir, clock)
	h.enroll("pump-1", "infusion-pump")
	h.enroll("pump-2", "infusion-pump")
	until := clock().Add(time.Hour)
	for id, end := range map[string]time.Time{"pump-1": until, "pump-2": until.Add(time.Hour)} {
		if _, err := h.api(Enroller).Associate(t.Context(), AssociateRequest{ID: id, Patients: []string{"Patient/1"}, Until: end}); err != nil {
			t.Fatal(err)
		}
	}
	// A loan of the same device's, which ends between the two.
	loan := until.Add(30 * time.Minute).Truncate(time.Second)
	if _, err := h.api(Enroller).Lend(t.Context(), LoanRequest{ID: "pump-1", To: "Acme", Until: loan}); err != nil {
		t.Fatal(err)
	}
	next, err := h.EndDue(t.Context())
	if err != nil || !next.Equal(until) {
		t.Errorf("the next ends at %v, %v; want %v", next, err, until)
	}
	ahead.Add(int64(time.Hour))
	if next, err = h.EndDue(t.Context()); err != nil || !next.Equal(loan) {
		t.Errorf("the next ends at %v, %v; want the loan's, %v", next, err, loan)
	}
	if r, _ := h.state.Devices.Get("pump-1"); r.Loan == nil {
		t.Error("the loan is over before its time")
	}
	ahead.Add(int64(time.Hour / 2))
	if next, err = h.EndDue(t.Context()); err != nil || !next.Equal(until.Add(time.Hour)) {
		t.Errorf("the next ends at %v, %v", next, err)
	}
	if r, _ := h.state.Devices.Get("pump-1"); r.Loan != nil {
		t.Errorf("still on loan: %+v", r.Loan)
	}
	if r, _ := h.state.Devices.Get("pump-1"); len(r.Patients) != 0 {
		t.Errorf("still there: %+v", r.Patients)
	}
	if r, _ := h.state.Devices.Get("pump-2"); len(r.Patients) != 1 {
		t.Errorf("another's is gone: %+v", r.Patients)
	}
	if err := h.state.Audit.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := h.events(audit.Filter{Device: "pump-1"}); got[len(got)-2] != "device.dissociated" || got[len(got)-1] != "device.loan-over" {
		t.Errorf("recorded %q", got)
	}
}
