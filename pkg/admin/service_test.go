package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestRoles holds who may do what: all operations, every role alone.
func TestRoles(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	allowed := map[string][]Role{
		"device.enroll":       {Enroller},
		"device.renew":        {Enroller},
		"device.status":       {Enroller, SecurityOfficer},
		"device.posture":      {Enroller, SecurityOfficer},
		"certificate.revoke":  {Enroller, SecurityOfficer},
		"device.accept":       {Enroller, SecurityOfficer},
		"device.replace":      {Enroller},
		"device.lend":         {Enroller},
		"device.return":       {Enroller, SecurityOfficer},
		"device.decommission": {Enroller, SecurityOfficer},
		"device.associate":    {Enroller, SecurityOfficer},
		"device.dissociate":   {Enroller, SecurityOfficer},
		"device.token":        {Enroller},
		"device.import":       {Enroller},
		"device.approve":      {Enroller},
		"token.revoke":        {Enroller, SecurityOfficer},
		"session.kill":        {SecurityOfficer},
		"operator.add":        {SecurityOfficer},
		"operator.revoke":     {SecurityOfficer},
		"reload":              {PolicyAuthor, SecurityOfficer},
		"policy.push":         {PolicyAuthor},
		"policy.rollback":     {PolicyAuthor},
		"policy.promote":      {PolicyAuthor},

		"break-glass.open":    {Enroller, SecurityOfficer},
		"break-glass.approve": {SecurityOfficer},
		"break-glass.close":   {Enroller, SecurityOfficer},
		"break-glass.review":  {SecurityOfficer, Auditor},

		"restore.acknowledge": {SecurityOfficer},
		"ca.rotate.prepare":   {SecurityOfficer},
		"ca.rotate":           {SecurityOfficer},
		"ca.root.add":         {SecurityOfficer},
		"ca.root.remove":      {SecurityOfficer},
	}
	looks := []string{"device.import.check", "break-glass.list", "ca.crl", "ca.verify", "ca.show", "device.findings", "device.list", "device.patients", "device.show", "device.waiting", "operator.list", "policy.history", "policy.revision", "policy.status", "session.list", "status", "token.list"}
	for name := range operations() {
		roles, changes := allowed[name]
		if !changes {
			if !slices.Contains(looks, name) {
				t.Errorf("nobody decided who may do %s", name)
			}
			roles = AllRoles
		}
		for _, r := range append(slices.Clone(AllRoles), "") {
			_, err := h.Do(t.Context(), Actor{Name: "jane", Roles: []Role{r}}, name, nil)
			if got := !errors.Is(err, errForbidden); got != slices.Contains(roles, r) {
				t.Errorf("%s as %q: %v", name, r, err)
			}
		}
	}
	for name := range outpours() {
		if name != "backup" {
			t.Errorf("nobody decided who may do %s", name)
		}
		for _, r := range append(slices.Clone(AllRoles), "") {
			_, err := h.Stream(t.Context(), Actor{Name: "jane", Roles: []Role{r}}, name, nil, io.Discard)
			if got := !errors.Is(err, errForbidden); got != (r == SecurityOfficer) {
				t.Errorf("%s as %q: %v", name, r, err)
			}
		}
	}
	if _, err := h.Do(t.Context(), Actor{Roles: AllRoles}, "device.destroy", nil); codeOf(err) != CodeInvalid {
		t.Errorf("an unknown operation: %v", err)
	}
}

func TestOnlyASecurityOfficerReleases(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	move := func(role Role, to device.Status) error {
		_, err := h.api(role).SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: to})
		return err
	}
	if err := move(Enroller, device.Quarantined); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if err := move(Enroller, device.Active); !errors.As(err, &e) || e.Code != CodeForbidden {
		t.Errorf("an enroller releases: %v", err)
	}
	if err := move(SecurityOfficer, device.Active); err != nil {
		t.Error(err)
	}
}

// TestAcknowledgedChangesSurvive kills the process, in effect, right after each
// change was acknowledged (invariant 5).
func TestAcknowledgedChangesSurvive(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	api := h.api(AllRoles...)
	iss := h.enroll("pump-1", "infusion-pump")
	after := h.killed()
	rec, ok := after.state.Devices.Get("pump-1")
	if !ok || rec.Status != device.Active || rec.Certificates[0].Serial != iss.Serial {
		t.Fatalf("after an enrolment: %+v", rec)
	}
	if got := after.events(audit.Filter{Device: "pump-1"}); !slices.Equal(got, []string{"device.enrolled"}) {
		t.Errorf("records of the enrolment: %v", got)
	}
	for _, to := range []device.Status{device.Quarantined, device.Revoked} {
		if _, err := api.SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: to, Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		after = h.killed()
		if rec, _ := after.state.Devices.Get("pump-1"); rec.Status != to {
			t.Errorf("after %s: %s", to, rec.Status)
		}
		if got := after.events(audit.Filter{Event: "device." + string(to)}); len(got) != 1 {
			t.Errorf("records of %s: %v", to, got)
		}
	}
	if ok, err := after.state.CA.IsRevoked(iss.Serial); err != nil || !ok {
		t.Errorf("the CA forgot the revocation: %v %v", ok, err)
	}
	if _, err := api.AddOperator(t.Context(), OperatorRequest{Name: "joe", Roles: []Role{Viewer}, CSR: csr(t, "joe")}); err != nil {
		t.Fatal(err)
	}
	if ops, err := h.killed().api(Viewer).Operators(t.Context()); err != nil || len(ops) != 1 || ops[0].Name != "joe" {
		t.Errorf("operators: %v %v", ops, err)
	}
	if rep, err := audit.Verify(t.Context(), h.killed().state.Config().Audit.Dir, audit.VerifyOptions{}); err != nil {
		t.Errorf("verify: %v %v", rep, err)
	}
}

// TestWhatCanNotBeRecordedIsNotDone, unless it takes something away.
func TestWhatCanNotBeRecordedIsNotDone(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	iss := h.enroll("pump-1", "infusion-pump")
	h.enroll("pump-2", "infusion-pump")
	api := h.api(AllRoles...)
	if _, err := api.SetStatus(t.Context(), StatusRequest{ID: "pump-2", To: device.Quarantined}); err != nil {
		t.Fatal(err)
	}
	if err := h.state.Audit.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, firmware := t.Context(), "2"
	for name, f := range map[string]func() error{
		"enroll": func() error {
			_, err := api.Enroll(ctx, EnrollRequest{Device: device.Record{ID: "pump-3", Class: "infusion-pump"}, CSR: csr(t, "pump-3")})
			return err
		},
		"renew": func() error { _, err := api.Renew(ctx, RenewRequest{ID: "pump-1", CSR: csr(t, "pump-1")}); return err },
		"release": func() error {
			_, err := api.SetStatus(ctx, StatusRequest{ID: "pump-2", To: device.Active})
			return err
		},
		"posture": func() error {
			_, err := api.SetPosture(ctx, PostureRequest{ID: "pump-1", Firmware: &firmware, AssessedAt: time.Now()})
			return err
		},
		"operator": func() error {
			_, err := api.AddOperator(ctx, OperatorRequest{Name: "joe", Roles: []Role{Viewer}, CSR: csr(t, "joe")})
			return err
		},
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok := h.state.Devices.Get("pump-3"); ok {
		t.Error("a device was enrolled unrecorded")
	}
	if r, _ := h.state.Devices.Get("pump-1"); len(r.Certificates) != 1 || r.Posture.Firmware != "" {
		t.Errorf("pump-1 was changed unrecorded: %+v", r)
	}
	if r, _ := h.state.Devices.Get("pump-2"); r.Status != device.Quarantined {
		t.Error("a device was released unrecorded")
	}
	if _, err := api.SetStatus(ctx, StatusRequest{ID: "pump-1", To: device.Revoked}); err == nil || !strings.Contains(err.Error(), "the change was made") {
		t.Errorf("revoke: %v", err)
	}
	if r, _ := h.state.Devices.Get("pump-1"); r.Status != device.Revoked {
		t.Error("a full disk kept a device from being revoked")
	}
	if ok, _ := h.state.CA.IsRevoked(iss.Serial); !ok {
		t.Error("the CA does not know of the revocation")
	}
}

// TestACutOffRevocationIsCompleted by asking for it again.
func TestACutOffRevocationIsCompleted(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	iss := h.enroll("pump-1", "infusion-pump")
	if _, err := h.state.Devices.SetStatus(t.Context(), "pump-1", device.Revoked, "lost"); err != nil {
		t.Fatal(err)
	}
	again := h.killed()
	if _, err := again.api(SecurityOfficer).SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: device.Revoked}); err != nil {
		t.Fatal(err)
	}
	if ok, err := again.state.CA.IsRevoked(iss.Serial); err != nil || !ok {
		t.Errorf("the CA: %v %v", ok, err)
	}
	if got := again.events(audit.Filter{Event: "device.revoked"}); len(got) != 1 {
		t.Errorf("records: %v", got)
	}
}

func TestLifetimes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, tt := range []struct {
		class string
		ask   time.Duration
		want  time.Duration // 0: refused
	}{
		{"infusion-pump", 0, 8760 * time.Hour},
		{"ct-scanner", 0, 240 * time.Hour},
		{"ct-scanner", time.Hour, time.Hour},
		{"infusion-pump", 17520 * time.Hour, 17520 * time.Hour},
		{"infusion-pump", 17521 * time.Hour, 0},
		{"infusion-pump", -time.Hour, 0},
	} {
		id := fmt.Sprintf("d-%s-%d", tt.class, int(tt.ask.Hours())+1)
		iss, err := h.api(Enroller).Enroll(t.Context(), EnrollRequest{Device: device.Record{ID: id, Class: tt.class}, CSR: csr(t, id), TTL: tt.ask})
		if tt.want == 0 {
			var e *Error
			if !errors.As(err, &e) || e.Code != CodeInvalid {
				t.Errorf("%s for %v: %v", tt.class, tt.ask, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s for %v: %v", tt.class, tt.ask, err)
			continue
		}
		if left := time.Until(iss.NotAfter); left < tt.want-time.Hour/2 || left > tt.want+time.Hour/2 {
			t.Errorf("%s for %v: %v left", tt.class, tt.ask, left)
		}
	}
}

// TestARefusalIsAboutOneDevice: it is no failure of the gateway's, by which a command
// that renews many would end.
func TestARefusalIsAboutOneDevice(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	for n := 0; ; n++ {
		_, err := h.api(Enroller).Renew(t.Context(), RenewRequest{ID: "pump-1", CSR: csr(t, "pump-1")})
		if err == nil && n < 1000 {
			continue
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeConflict || !strings.Contains(e.Message, "enrolment.quota") {
			t.Errorf("after %d renewals: %+v", n, err)
		}
		return
	}
}

// TestRenewalOverlaps: both certificates are the device's, until the old one ends.
func TestRenewalOverlaps(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	first := h.enroll("pump-1", "infusion-pump")
	second, err := h.api(Enroller).Renew(t.Context(), RenewRequest{ID: "pump-1", CSR: csr(t, "pump-1")})
	if err != nil {
		t.Fatal(err)
	}
	for _, iss := range []*Issued{first, second} {
		if !slices.ContainsFunc(second.Device.Certificates, func(c device.Certificate) bool { return c.Serial == iss.Serial && c.RevokedAt.IsZero() }) {
			t.Errorf("certificate %s is not the device's", iss.Serial)
		}
	}
}

func TestPostureKeepsWhatIsNotSaid(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	api, worst, firmware := h.api(SecurityOfficer), 9.8, "1.0.3"
	if _, err := api.SetPosture(t.Context(), PostureRequest{ID: "pump-1", MaxCVSS: &worst, AssessedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	rec, err := api.SetPosture(t.Context(), PostureRequest{ID: "pump-1", Firmware: &firmware, AssessedAt: time.Now()})
	if err != nil || rec.Posture.MaxCVSS != worst || rec.Posture.Firmware != firmware {
		t.Errorf("%+v %v", rec, err)
	}
}

func TestKeysStayWithWhoMadeThem(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, bad := range map[string][]byte{"nothing": nil, "text": []byte("hello"), "a key": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")} {
		_, err := h.api(Enroller).Enroll(t.Context(), EnrollRequest{Device: device.Record{ID: "pump-1", Class: "x"}, CSR: bad})
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalid {
			t.Errorf("%s instead of a signing request: %v", name, err)
		}
	}
	if n := len(h.state.Devices.List(device.Filter{})); n != 0 {
		t.Errorf("%d devices", n)
	}
}

// TestManyAtOnce runs changes, looks and a change of configuration side by side.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	next, err := config.Load(h.state.Config().Path)
	if err != nil {
		t.Fatal(err)
	}
	requests := make([][]byte, 8)
	for i := range requests {
		requests[i] = csr(t, "x")
	}
	var wg sync.WaitGroup
	for i, c := range requests {
		wg.Go(func() {
			// Two want each id; one gets it.
			id := fmt.Sprintf("pump-%d", i/2)
			_, err := h.api(Enroller).Enroll(t.Context(), EnrollRequest{Device: device.Record{ID: id, Class: "infusion-pump"}, CSR: c})
			var e *Error
			if err != nil && (!errors.As(err, &e) || e.Code != CodeExists) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			h.state.Configure(next)
			if _, err := h.api(Viewer).Status(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.state.Devices.Counts()[device.Active]; n != len(requests)/2 {
		t.Errorf("%d devices", n)
	}
	if got := h.events(audit.Filter{Event: "device.enrolled"}); len(got) != len(requests)/2 {
		t.Errorf("%d records", len(got))
	}
}

// TestWhoAsksMayGoAway: what was begun is finished.
func TestWhoAsksMayGoAway(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	iss := h.enroll("pump-1", "infusion-pump")
	ctx, cancel := context.WithCancel(t.Context())
	// The caller is gone as soon as the registry has changed.
	defer h.state.Devices.Subscribe(func(_, _ *device.Record) { cancel() })()
	if _, err := h.api(SecurityOfficer).SetStatus(ctx, StatusRequest{ID: "pump-1", To: device.Revoked}); err != nil {
		t.Fatal(err)
	}
	if ok, err := h.state.CA.IsRevoked(iss.Serial); err != nil || !ok {
		t.Errorf("the CA: %v %v", ok, err)
	}
}
