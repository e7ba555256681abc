package workbench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

func web(method string, query []string, path ...protocol.Value) *protocol.Transaction {
	f := func(name string, v protocol.Value) protocol.Field { return protocol.Field{Name: name, Value: v} }
	var q []protocol.Field
	for _, name := range query {
		q = append(q, f(name, protocol.List(protocol.Sensitive("1.2.3"))))
	}
	return &protocol.Transaction{Protocol: "http", Action: method, Bytes: -1, Facts: []protocol.Field{
		f("http", protocol.Object(f("method", protocol.String(method)), f("host", protocol.String("gw")), f("path", protocol.List(path...)),
			f("query", protocol.Object(q...)), f("headers", protocol.Object()), f("content_type", protocol.String(""))))}}
}

// apply writes a suggestion into the set it was made for.
func apply(t *testing.T, dir string, s *Suggestion) {
	t.Helper()
	for name, body := range map[string]string{s.File: s.Data, s.TestFile: s.Test} {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatIsSuggestedAllowsWhatWasSeenAndNoMore: for random traffic of every
// class, the suggested set loads without a finding, passes its own tests, allows
// all that was allowed, and grants nothing that was not used.
func TestWhatIsSuggestedAllowsWhatWasSeenAndNoMore(t *testing.T) {
	for seed := range uint64(5) {
		w := newWard(t)
		r := rand.New(rand.NewPCG(seed, 3))
		s := protocol.String
		for range 300 {
			for id := range w.devices {
				w.decide(id, fhir([]string{"create", "read", "search-type", "update"}[r.IntN(4)],
					[]string{"Observation", "MedicationRequest", "Device", "Flag", "Patient"}[r.IntN(5)], fmt.Sprint("p", r.IntN(9))))
				break
			}
			w.decide("ct-scanner-1", web("POST", nil, s("dicom-web"), s("studies")))
			w.decide("ct-scanner-1", web("GET", nil, s("dicom-web"), s("studies"), protocol.Sensitive(fmt.Sprint("1.2.", r.IntN(99))), s("series")))
		}
		uses, err := Observe(t.Context(), w.audit(), audit.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		next := w.load("", "")
		for _, u := range uses {
			sug, err := Suggest(u, next.Dir())
			if err != nil {
				t.Fatal(err)
			}
			apply(t, next.Dir(), sug)
			// Said again of what it says itself, there is nothing left to say.
			again, err := Suggest(u, next.Dir())
			if err != nil || again.Diff != "" || again.TestDiff != "" || len(again.Unused)+len(again.New) > 0 {
				t.Errorf("seed %d: %s: %v\n%s%s", seed, u.Class, err, again.Diff, again.TestDiff)
			}
		}
		rep, err := policy.Test(t.Context(), next.Dir(), policy.TestOptions{Run: "goes_on_as_seen"})
		if err != nil || !rep.OK() || rep.Passed != len(uses) {
			t.Fatalf("seed %d: %+v, %v", seed, rep, err)
		}
		set, err := policy.Load(t.Context(), next.Dir(), policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := replay(t, w, set, audit.Filter{}); got.Changed != 0 {
			t.Errorf("seed %d: %+v", seed, got.Changes)
		}
	}
}

func TestASuggestionIsASmallDiff(t *testing.T) {
	w := newWard(t)
	w.decide("infusion-pump-0", fhir("create", "Observation", "p"))
	w.decide("infusion-pump-1", fhir("search-type", "MedicationRequest", "p"))
	uses, err := Observe(t.Context(), w.audit(), audit.Filter{Class: "infusion-pump"})
	if err != nil || len(uses) != 1 {
		t.Fatalf("%v, %v", uses, err)
	}
	s, err := Suggest(uses["infusion-pump"], w.set.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"Communication: create", "DetectedIssue: create"}; !slices.Equal(slices.Sorted(slices.Values(s.Kept)), want) {
		t.Errorf("kept %q: nobody raised an alarm, and none could be raised any more", s.Kept)
	}
	if s.File != "classes/infusion-pump.yaml" || s.Devices != 2 || s.Decisions != 2 || len(s.New) != 0 || !slices.Contains(s.Unused, "Observation: read") {
		t.Errorf("%+v", s)
	}
	for _, want := range []string{"--- a/classes/infusion-pump.yaml", "-      Observation: [create, conditional-create, read]", "+      Observation: [create]", "   title: Infusion pump"} {
		if !strings.Contains(s.Diff, want+"\n") {
			t.Errorf("no %q in\n%s", want, s.Diff)
		}
	}
	if strings.Contains(s.Data, "hmac:") || strings.Contains(s.Test, "hmac:") || !strings.Contains(s.Data, "# What an infusion pump needs") {
		t.Errorf("%s\n%s", s.Data, s.Test)
	}

	// A directory that is not there is a mistake, and not an empty set.
	for _, dir := range []string{filepath.Join(w.set.Dir(), "elsewhere"), filepath.Join(w.set.Dir(), "classes", "infusion-pump.yaml")} {
		if _, err := Suggest(uses["infusion-pump"], dir); err == nil {
			t.Errorf("a suggestion for %s", dir)
		}
	}

	// A class that no file knows yet, from a route that observed.
	d := *w.devices["infusion-pump-0"]
	d.ID, d.Class = "scale-1", "scale"
	tx := fhir("create", "Observation", "p")
	w.append(&audit.Record{Kind: audit.KindTransaction, Event: decided, Device: d.ID, Class: d.Class, Transaction: tx,
		Decision: &audit.Decision{ID: "x", Allow: true, WouldDeny: true, Cause: "policy", Revision: "r"}})
	uses, err = Observe(t.Context(), w.audit(), audit.Filter{Class: "scale"})
	if err != nil {
		t.Fatal(err)
	}
	s, err = Suggest(uses["scale"], w.set.Dir())
	if err != nil || !strings.HasPrefix(s.Diff, "diff /dev/null b/classes/scale.yaml\n") || s.Data != "scale:\n  fhir:\n    types:\n      Observation: [create]\n" {
		t.Errorf("%v\n%s%s", err, s.Diff, s.Data)
	}
}

func TestAddressesThatVaryBecomeWildcards(t *testing.T) {
	u := &Use{}
	for i := range 400 {
		u.web(WebUse{Method: "GET", Path: []string{"files", fmt.Sprint("f", i), "page"}, Query: map[string]bool{"q": true}})
	}
	u.web(WebUse{Method: "POST", Path: []string{"files"}, Query: map[string]bool{}, Bare: true})
	u.generalise()
	if len(u.Web) != 2 || u.Web[0].Method != "POST" || strings.Join(u.Web[1].Path, "/") != "files/*/page" || !u.Web[1].Query["q"] || u.Web[1].Bare {
		t.Errorf("%+v", u.Web)
	}
}
