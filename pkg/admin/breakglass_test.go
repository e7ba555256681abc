package admin

import (
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// says returns a step of a grant as an author signs it; change may spoil it before.
func (w author) says(t *testing.T, purpose, id string, change ...func(*breakglass.Statement)) GrantRequest {
	t.Helper()
	st := &breakglass.Statement{TrustDomain: "hospital.example", Grant: id, Operator: w.name, At: time.Now()}
	for _, f := range change {
		f(st)
	}
	token, err := st.Sign(purpose, w.key, w.cert)
	if err != nil {
		t.Fatal(err)
	}
	return GrantRequest{ID: id, Statement: token}
}

func forDevice(ids ...string) func(*breakglass.Statement) {
	return func(st *breakglass.Statement) {
		st.Terms = &breakglass.Terms{Devices: ids, Reason: "the EHR is down", Time: 30 * time.Minute}
	}
}

func about(g *Grant) func(*breakglass.Statement) {
	return func(st *breakglass.Statement) {
		st.Opening, st.Until = breakglass.Digest(g.Opening), time.Now().Add(g.Terms.Time)
	}
}

func found(text string) func(*breakglass.Statement) {
	return func(st *breakglass.Statement) { st.Finding, st.Until = text, time.Time{} }
}

// opens asks for a grant for a device.
func (h *house) opens(w author, ids ...string) *Grant {
	h.t.Helper()
	g, err := h.api(Enroller).OpenGrant(h.t.Context(), w.says(h.t, breakglass.ToOpen, breakglass.NewID(), forDevice(ids...)))
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

func (h *house) approves(w author, g *Grant) *Grant {
	h.t.Helper()
	g, err := h.api(SecurityOfficer).ApproveGrant(h.t.Context(), w.says(h.t, breakglass.ToApprove, g.ID, about(g)))
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

// open reports whether a grant covers a device.
func (h *house) open(id string) bool {
	rec, ok := h.state.Devices.Get(id)
	return ok && h.state.BreakGlass.For(rec, "ehr") != nil
}

func TestTwoPersonsOpenAGrantAndAnotherReviewsIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("monitor-1", "patient-monitor")
	jane, bob, ann := h.author("jane", 0, Enroller), h.author("bob", 0, SecurityOfficer), h.author("ann", 0, Auditor)
	g := h.opens(jane, "monitor-1")
	if g.State != breakglass.Pending || g.Covered != 1 || h.open("monitor-1") {
		t.Fatalf("requested: %+v", g)
	}
	if g = h.approves(bob, g); g.State != breakglass.Active || !h.open("monitor-1") || g.OpenedBy != "jane" || g.ApprovedBy != "bob" {
		t.Fatalf("approved: %+v", g)
	}
	st, err := h.api(Viewer).Status(t.Context())
	if err != nil || len(st.BreakGlass) != 1 || !strings.Contains(strings.Join(st.Warnings, "\n"), "BREAK-GLASS "+g.ID+" is open for monitor-1 until ") {
		t.Errorf("%q, %v", st.Warnings, err)
	}
	// It is there after kill -9.
	if k := h.killed(); !k.open("monitor-1") {
		t.Error("lost in a crash")
	}
	if g, err = h.api(Enroller).CloseGrant(t.Context(), g.ID); err != nil || g.State != breakglass.Closed || !g.NeedsReview || h.open("monitor-1") {
		t.Fatalf("closed: %+v, %v", g, err)
	}
	if k := h.killed(); k.open("monitor-1") {
		t.Error("in force again after a crash")
	}
	if st, _ := h.api(Viewer).Status(t.Context()); !strings.Contains(strings.Join(st.Warnings, "\n"), "was not reviewed") {
		t.Errorf("%q", st.Warnings)
	}
	if _, err := h.api(Auditor).ReviewGrant(t.Context(), jane.says(t, breakglass.ToReview, g.ID, about(g), found("all well"))); err == nil || err.(*Error).Code != CodeForbidden {
		t.Errorf("reviewed by who opened it: %v", err)
	}
	g, err = h.api(Auditor).ReviewGrant(t.Context(), ann.says(t, breakglass.ToReview, g.ID, about(g), found("all well")))
	if err != nil || g.State != breakglass.Reviewed || g.ReviewedBy != "ann" {
		t.Fatalf("reviewed: %+v, %v", g, err)
	}
	if gs, err := h.api(Viewer).Grants(t.Context(), GrantsRequest{}); err != nil || len(gs) != 0 {
		t.Errorf("%+v, %v", gs, err)
	}
	if gs, err := h.api(Viewer).Grants(t.Context(), GrantsRequest{All: true}); err != nil || len(gs) != 1 {
		t.Errorf("%+v, %v", gs, err)
	}
	got := h.events(audit.Filter{})
	for _, want := range []string{"break-glass.requested", "break-glass.opened", "break-glass.closed", "break-glass.reviewed"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not recorded: %v", want, got)
		}
	}
}

// TestAGrantIsRefused: whatever is wrong with a request, nothing comes of it.
func TestAGrantIsRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("monitor-1", "patient-monitor")
	for id, to := range map[string]device.Status{"pump-1": device.Quarantined, "pump-2": device.Revoked, "pump-3": device.Retired} {
		h.enroll(id, "infusion-pump")
		if _, err := h.api(AllRoles...).SetStatus(t.Context(), StatusRequest{ID: id, To: to}); err != nil {
			t.Fatal(err)
		}
	}
	jane, bob := h.author("jane", 0, Enroller), h.author("bob", 0, SecurityOfficer)
	vera, gone := h.author("vera", 0, Viewer, PolicyAuthor, Auditor), h.author("gone", 0, SecurityOfficer)
	if _, err := h.api(AllRoles...).RevokeOperator(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	// A device's certificate is of the same CA, and no operator's.
	enrolled := jane
	iss, err := h.api(AllRoles...).Enroll(t.Context(), EnrollRequest{Device: device.Record{ID: "jane", Class: "patient-monitor"}, CSR: csrOf(t, jane.key, "jane")})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(iss.ChainPEM)
	if enrolled.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	ok := forDevice("monitor-1")
	with := func(f func(*breakglass.Statement)) []func(*breakglass.Statement) {
		return []func(*breakglass.Statement){ok, f}
	}
	used := h.opens(jane, "monitor-1")
	for name, c := range map[string]struct {
		by      author
		purpose string
		change  []func(*breakglass.Statement)
		want    string
	}{
		"a viewer's":           {vera, breakglass.ToOpen, with(func(*breakglass.Statement) {}), "needs an operator with one of the roles [enroller security-officer]"},
		"a revoked operator's": {gone, breakglass.ToOpen, with(func(*breakglass.Statement) {}), "operator gone is revoked"},
		"a device's":           {enrolled, breakglass.ToOpen, with(func(*breakglass.Statement) {}), "names no operator"},
		"another purpose":      {jane, breakglass.ToApprove, with(func(*breakglass.Statement) {}), "of type"},
		"another domain":       {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.TrustDomain = "other.example" }), "trust domain"},
		"another's name":       {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Operator = "bob" }), "says another operator"},
		"another grant":        {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Grant = breakglass.NewID() }), "another grant"},
		"an old one":           {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.At = time.Now().Add(-time.Hour) }), "which is not now"},
		"one of tomorrow":      {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.At = time.Now().Add(time.Hour) }), "which is not now"},
		"no terms":             {jane, breakglass.ToOpen, nil, "has no terms"},
		"too long":             {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Terms.Time = 61 * time.Minute }), "at most 1h0m0s is allowed"},
		"far too long":         {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Terms.Time = 9 * time.Hour }), "must last"},
		"no reason":            {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Terms.Reason = "" }), "reason is missing"},
		"everybody":            {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Terms.Devices = nil }), "no device, class or location"},
		"an unknown device":    {jane, breakglass.ToOpen, []func(*breakglass.Statement){forDevice("monitor-9")}, "monitor-9: no such device"},
		"quarantined":          {jane, breakglass.ToOpen, []func(*breakglass.Statement){forDevice("pump-1")}, "pump-1 is quarantined, which no emergency overrides"},
		"revoked":              {jane, breakglass.ToOpen, []func(*breakglass.Statement){forDevice("pump-2")}, "is revoked"},
		"retired":              {jane, breakglass.ToOpen, []func(*breakglass.Statement){forDevice("monitor-1", "pump-3")}, "is retired"},
		"an empty class":       {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Terms.Devices, st.Terms.Class = nil, "infusion-pump" }), "covers no device"},
		"an unknown route":     {jane, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Terms.Routes = []string{"ehr"} }), `no route "ehr"`},
		"alone":                {bob, breakglass.ToOpen, with(func(st *breakglass.Statement) { st.Until = time.Now().Add(time.Minute) }), "nobody opens a grant alone here"},
	} {
		req := c.by.says(t, c.purpose, breakglass.NewID(), c.change...)
		if c.want == "another grant" {
			req.ID = breakglass.NewID()
		}
		if _, err := h.api(Enroller).OpenGrant(t.Context(), req); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// What was sent once is of no use again.
	if _, err := h.api(Enroller).OpenGrant(t.Context(), GrantRequest{ID: used.ID, Statement: used.Opening}); err == nil || !strings.Contains(err.Error(), "good once") {
		t.Errorf("a request was taken twice: %v", err)
	}
	if gs, err := h.api(Viewer).Grants(t.Context(), GrantsRequest{All: true}); err != nil || len(gs) != 1 {
		t.Errorf("%d grants, %v", len(gs), err)
	}
	if got := h.events(audit.Filter{Event: "operator.failed"}); len(got) < 20 {
		t.Errorf("%d refusals are recorded", len(got))
	}
}

// TestAnApprovalIsRefused: the second person is another, means this very grant, and
// says so now.
func TestAnApprovalIsRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("monitor-1", "patient-monitor")
	jane, bob := h.author("jane", 0, SecurityOfficer, Enroller), h.author("bob", 0, SecurityOfficer)
	vera, leaves := h.author("vera", 0, Enroller, Auditor), h.author("leaves", 0, Enroller)
	// jane has a second name, with the same key.
	twin := author{name: "twin", key: jane.key}
	req := csrOf(t, jane.key, "twin")
	iss, err := h.api(AllRoles...).AddOperator(t.Context(), OperatorRequest{Name: "twin", Roles: []Role{SecurityOfficer}, CSR: req})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(iss.ChainPEM)
	if twin.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	g, other := h.opens(jane, "monitor-1"), h.opens(jane, "monitor-1")
	for name, c := range map[string]struct {
		by      author
		purpose string
		change  []func(*breakglass.Statement)
		want    string
	}{
		"the same person":     {jane, breakglass.ToApprove, []func(*breakglass.Statement){about(g)}, "jane asked for " + g.ID + ", and the second person must be another"},
		"the same key":        {twin, breakglass.ToApprove, []func(*breakglass.Statement){about(g)}, "twin has the key of jane"},
		"an enroller":         {vera, breakglass.ToApprove, []func(*breakglass.Statement){about(g)}, "needs an operator with one of the roles [security-officer]"},
		"a review":            {bob, breakglass.ToReview, []func(*breakglass.Statement){about(g)}, "of type"},
		"another's terms":     {bob, breakglass.ToApprove, []func(*breakglass.Statement){about(other)}, "other terms"},
		"no terms":            {bob, breakglass.ToApprove, nil, "other terms"},
		"terms of its own":    {bob, breakglass.ToApprove, []func(*breakglass.Statement){forDevice("monitor-1"), about(g)}, "other terms"},
		"longer than asked":   {bob, breakglass.ToApprove, []func(*breakglass.Statement){about(g), func(st *breakglass.Statement) { st.Until = st.Until.Add(time.Minute) }}, "is for 30m0s from now"},
		"until no time":       {bob, breakglass.ToApprove, []func(*breakglass.Statement){about(g), func(st *breakglass.Statement) { st.Until = time.Time{} }}, "is for 30m0s from now"},
		"a kept one":          {bob, breakglass.ToApprove, []func(*breakglass.Statement){about(g), func(st *breakglass.Statement) { st.At = st.At.Add(-6 * time.Minute) }}, "which is not now"},
		"another's signature": {author{"bob", jane.key, jane.cert}, breakglass.ToApprove, []func(*breakglass.Statement){about(g)}, "says another operator"},
	} {
		if _, err := h.api(SecurityOfficer).ApproveGrant(t.Context(), c.by.says(t, c.purpose, g.ID, c.change...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if h.open("monitor-1") {
		t.Fatal("a grant is in force")
	}
	// Whoever asked is gone before it is approved, or the device is.
	left := h.opens(leaves, "monitor-1")
	if _, err := h.api(AllRoles...).RevokeOperator(t.Context(), "leaves"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api(SecurityOfficer).ApproveGrant(t.Context(), bob.says(t, breakglass.ToApprove, left.ID, about(left))); err == nil || !strings.Contains(err.Error(), "is revoked since") {
		t.Errorf("%v", err)
	}
	if _, err := h.api(AllRoles...).SetStatus(t.Context(), StatusRequest{ID: "monitor-1", To: device.Quarantined}); err != nil {
		t.Fatal(err)
	}
	approval := bob.says(t, breakglass.ToApprove, g.ID, about(g))
	if _, err := h.api(SecurityOfficer).ApproveGrant(t.Context(), approval); err == nil || !strings.Contains(err.Error(), "no emergency overrides") {
		t.Errorf("%v", err)
	}
	if _, err := h.api(AllRoles...).SetStatus(t.Context(), StatusRequest{ID: "monitor-1", To: device.Active}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api(SecurityOfficer).ApproveGrant(t.Context(), approval); err != nil || !h.open("monitor-1") {
		t.Fatal(err)
	}
	// An approval is good once, also when the grant is closed.
	if _, err := h.api(Enroller).CloseGrant(t.Context(), g.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api(SecurityOfficer).ApproveGrant(t.Context(), approval); err == nil || h.open("monitor-1") {
		t.Errorf("approved again: %v", err)
	}
}

// TestAloneWhereThatIsAllowed: a security officer, for a night with nobody else; and
// another person reviews it.
func TestAloneWhereThatIsAllowed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("monitor-1", "patient-monitor")
	jane, bob, ann := h.author("jane", 0, Enroller), h.author("bob", 0, SecurityOfficer, Auditor), h.author("ann", 0, Auditor)
	if err := os.WriteFile(filepath.Join(h.dir, "anteroom.yaml"), []byte(text+"break_glass: {two_persons: false}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(filepath.Join(h.dir, "anteroom.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	h.state.Configure(cfg)
	alone := func(st *breakglass.Statement) { st.Until = time.Now().Add(st.Terms.Time) }
	if _, err := h.api(Enroller).OpenGrant(t.Context(), jane.says(t, breakglass.ToOpen, breakglass.NewID(), forDevice("monitor-1"), alone)); err == nil || !strings.Contains(err.Error(), "needs the role security-officer") {
		t.Errorf("an enroller alone: %v", err)
	}
	g, err := h.api(Enroller).OpenGrant(t.Context(), bob.says(t, breakglass.ToOpen, breakglass.NewID(), forDevice("monitor-1"), alone))
	if err != nil || !g.Alone || g.State != breakglass.Active || !h.open("monitor-1") {
		t.Fatalf("%+v, %v", g, err)
	}
	if st, _ := h.api(Viewer).Status(t.Context()); !strings.Contains(strings.Join(st.Warnings, "\n"), "one operator alone may open break-glass") {
		t.Errorf("%q", st.Warnings)
	}
	if _, err := h.api(Enroller).CloseGrant(t.Context(), g.ID); err != nil {
		t.Fatal(err)
	}
	for by, fine := range map[*author]bool{&bob: false, &ann: true} {
		if _, err := h.api(Auditor).ReviewGrant(t.Context(), by.says(t, breakglass.ToReview, g.ID, about(g), found("alone at night"))); (err == nil) != fine {
			t.Errorf("reviewed by %s: %v", by.name, err)
		}
	}
}

// TestWhatCanNotBeRecordedIsNotOpened, and what is open can be closed all the same.
func TestWhatCanNotBeRecordedIsNotOpened(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("monitor-1", "patient-monitor")
	jane, bob := h.author("jane", 0, Enroller), h.author("bob", 0, SecurityOfficer)
	first, second := h.approves(bob, h.opens(jane, "monitor-1")), h.opens(jane, "monitor-1")
	if err := h.state.Audit.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api(SecurityOfficer).ApproveGrant(t.Context(), bob.says(t, breakglass.ToApprove, second.ID, about(second))); err == nil {
		t.Error("approved without a record")
	}
	if _, err := h.api(Enroller).OpenGrant(t.Context(), jane.says(t, breakglass.ToOpen, breakglass.NewID(), forDevice("monitor-1"))); err == nil {
		t.Error("opened without a record")
	}
	if _, err := h.widened(t.Context(), Actor{Name: "x"}, "break-glass.opened", &first.Grant); err == nil || h.open("monitor-1") {
		t.Errorf("in force without a record: %v", err)
	}
	if g, err := h.state.BreakGlass.Get(t.Context(), first.ID); err != nil || g.State(time.Now()) != breakglass.Closed {
		t.Errorf("%+v, %v", g, err)
	}
	// Closing takes away, and is done.
	if _, err := h.api(Enroller).CloseGrant(t.Context(), second.ID); err == nil || !strings.Contains(err.Error(), "its record is not durable") {
		t.Errorf("%v", err)
	}
	if g, err := h.state.BreakGlass.Get(t.Context(), second.ID); err != nil || g.State(time.Now()) != breakglass.Lapsed {
		t.Errorf("%+v, %v", g, err)
	}
}

// sessions is a running gateway that counts how often what sessions hold is decided
// anew.
type sessions struct {
	Live
	rechecks atomic.Int32
}

func (s *sessions) Recheck() { s.rechecks.Add(1) }

func (s *sessions) TrustChanged() {}

// TestEveryChangeOfAGrantReachesLiveSessions, its end by itself too; and a request
// that nobody approves comes to nothing.
func TestEveryChangeOfAGrantReachesLiveSessions(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("monitor-1", "patient-monitor")
	jane, bob := h.author("jane", 0, Enroller), h.author("bob", 0, SecurityOfficer)
	live := &sessions{}
	h.cfg.Live = live
	moved := func(when string, want int32) {
		t.Helper()
		if n := live.rechecks.Swap(0); n != want {
			t.Errorf("%s: decided anew %d times, want %d", when, n, want)
		}
	}
	first, asked := h.opens(jane, "monitor-1"), h.opens(jane, "monitor-1")
	moved("requested", 0)
	h.approves(bob, first)
	moved("approved", 1)
	if _, err := h.api(Enroller).CloseGrant(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	moved("closed", 1)
	second := h.approves(bob, h.opens(jane, "monitor-1"))
	moved("approved again", 1)
	if err := h.EndGrants(t.Context()); err != nil {
		t.Fatal(err)
	}
	moved("nothing is over", 0)

	// The next process, an hour later.
	if err := h.state.Close(); err != nil {
		t.Fatal(err)
	}
	later := func() time.Time { return time.Now().Add(time.Hour) }
	log := slog.New(slog.DiscardHandler)
	st, err := OpenState(t.Context(), h.state.Config(), log, later)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	h.state, h.Service = st, NewService(Config{State: st, Live: live, Clock: later, Logger: log})
	if h.open("monitor-1") {
		t.Error("in force past its end")
	}
	if err := h.EndGrants(t.Context()); err != nil {
		t.Fatal(err)
	}
	moved("over", 1)
	for id, want := range map[string]breakglass.State{second.ID: breakglass.Expired, asked.ID: breakglass.Lapsed, first.ID: breakglass.Closed} {
		if g, err := st.BreakGlass.Get(t.Context(), id); err != nil || g.State(later()) != want || g.EndedAt.IsZero() {
			t.Errorf("%s: %+v, %v, want %s", id, g, err, want)
		}
	}
	got := h.events(audit.Filter{})
	if !slices.Contains(got, "break-glass.expired") || !slices.Contains(got, "break-glass.lapsed") {
		t.Errorf("recorded %v", got)
	}
	if err := h.EndGrants(t.Context()); err != nil {
		t.Fatal(err)
	}
	moved("told twice", 0)
}
