package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// gone waits until a connection is closed by the gateway.
func gone(t *testing.T, conn *tls.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection is alive: %v", err)
	}
}

func (f *fixture) status(id string, to device.Status) {
	f.reg.update(id, func(r *device.Record) { r.Status = to })
}

// TestTheLaneIsForQuarantineOnly: where a route is a lane, a quarantined device
// gets in, by a resumed handshake too; nobody else does who did not before.
func TestTheLaneIsForQuarantineOnly(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			f := newFixture(t, nil)
			c := f.returning("monitor-1", version)
			if _, _, err := f.hello(c); err != nil {
				t.Fatal(err)
			}
			if s := <-f.echo.sessions; s.InLane() {
				t.Error("an active device is in the lane")
			}
			f.status("monitor-1", device.Quarantined)
			if _, line, err := f.hello(c); err == nil {
				t.Fatalf("came in without a lane: %q", line)
			}
			f.srv.Sessions.SetLanes(map[string]bool{"another": true})
			if _, line, err := f.hello(c); err == nil {
				t.Fatalf("came in by another listener's lane: %q", line)
			}
			f.srv.Sessions.SetLanes(map[string]bool{"devices": true})
			for _, resumed := range []bool{false, true} {
				if !resumed {
					c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
				}
				conn, _, err := f.hello(c)
				if err != nil || conn.ConnectionState().DidResume != resumed {
					t.Fatalf("resumed %v: %v", resumed, err)
				}
				if s := <-f.echo.sessions; !s.InLane() || s.TLS.Resumed != resumed {
					t.Errorf("resumed %v: in the lane: %v", resumed, s.InLane())
				}
			}
			for _, to := range []device.Status{device.Revoked, device.Retired, device.Pending} {
				f.status("monitor-1", to)
				if _, line, err := f.hello(c); err == nil {
					t.Errorf("a device that is %s came in: %q", to, line)
				}
			}
			f.reg.update("monitor-1", func(r *device.Record) {
				r.Status = device.Quarantined
				certs := append([]device.Certificate(nil), r.Certificates...)
				certs[0].RevokedAt = time.Now()
				r.Certificates = certs
			})
			if _, line, err := f.hello(c); err == nil {
				t.Errorf("came in with a revoked certificate: %q", line)
			}
		})
	}
}

func TestAnExpiredCertificateHasNoLane(t *testing.T) {
	f := newFixture(t, nil)
	f.srv.Sessions.SetLanes(map[string]bool{"devices": true})
	c := f.client(f.enrol("monitor-1", time.Hour))
	f.status("monitor-1", device.Quarantined)
	later := time.Now().Add(2 * time.Hour)
	f.at(func() time.Time { return later })
	if _, line, err := f.hello(c); err == nil {
		t.Errorf("came in: %q", line)
	}
}

// TestQuarantineEndsWhatWasBegunBefore: a lane is for sessions that are begun in
// quarantine, and each ends with what it was begun for.
func TestQuarantineEndsWhatWasBegunBefore(t *testing.T) {
	f := newFixture(t, nil)
	f.srv.Sessions.SetLanes(map[string]bool{"devices": true})
	c := f.client(f.enrol("monitor-1", time.Hour))
	begin := func() (*tls.Conn, *protocol.Session) {
		t.Helper()
		conn, _, err := f.hello(c)
		if err != nil {
			t.Fatal(err)
		}
		return conn, <-f.echo.sessions
	}
	before, s := begin()
	f.status("monitor-1", device.Quarantined)
	if s.Context().Err() == nil {
		t.Fatal("the session lives on when quarantine has returned")
	}
	gone(t, before)

	conn, s := begin()
	f.reg.update("monitor-1", func(r *device.Record) { r.Location = "workshop" })
	if s.Context().Err() != nil || !s.InLane() {
		t.Fatalf("a change of another kind ended the session in the lane: %v", context.Cause(s.Context()))
	}
	f.status("monitor-1", device.Active)
	if line, err := say(conn, "update"); err != nil || line != "monitor-1 update" || s.InLane() {
		t.Errorf("released: %q, %v, in the lane: %v", line, err, s.InLane())
	}
	f.status("monitor-1", device.Quarantined)
	if s.Context().Err() == nil {
		t.Error("a session that had become an ordinary one lives on in quarantine")
	}

	_, s = begin()
	f.status("monitor-1", device.Revoked)
	if s.Context().Err() == nil {
		t.Error("a session in the lane outlives the revocation")
	}

	f.status("monitor-1", device.Quarantined)
	_, s = begin()
	other, _, err := f.hello(f.client(f.enrol("monitor-2", time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	f.srv.Sessions.SetLanes(nil)
	if s.Context().Err() == nil {
		t.Error("a session in the lane outlives the lane")
	}
	if _, err := say(other, "still here"); err != nil {
		t.Errorf("an active device's session ended with the lane: %v", err)
	}
}

// TestTheLaneClosesBetweenHandshakeAndTable: the last look at the lane is taken
// when the session can be found by whoever closes it.
func TestTheLaneClosesBetweenHandshakeAndTable(t *testing.T) {
	f := newFixture(t, nil)
	pair := f.enrol("monitor-1", time.Hour)
	f.status("monitor-1", device.Quarantined)
	rec, _ := f.reg.Get("monitor-1")
	s := protocol.NewSession(rec)
	s.ID, s.Listener, s.NotAfter, s.Fingerprint = "s", "devices", pair.Leaf.NotAfter, rec.Certificates[0].Fingerprint
	s.SetLane(true)
	if err := f.srv.Sessions.add(s, 8); err == nil {
		t.Error("in the table, though there is no lane")
	}
}

// TestInTheLaneOnlyTheLaneAnswers: whatever the policies allow, a quarantined
// device gets nothing from a route that is no lane, and hears so without losing
// its session.
func TestInTheLaneOnlyTheLaneAnswers(t *testing.T) {
	set := careless(t)
	lane := &protocol.Route{Name: "updates", Lane: true}
	tests := []struct {
		name  string
		route *protocol.Route
		in    bool // the session was begun in quarantine
		allow bool
		ends  bool
	}{
		{"the lane", lane, true, true, false},
		{"another route", &protocol.Route{Name: "ehr"}, true, false, false},
		{"a route that observes", &protocol.Route{Name: "ehr", Observe: true}, true, false, false},
		{"a lane that observes", &protocol.Route{Name: "updates", Lane: true, Observe: true}, true, true, false},
		{"no route", nil, true, false, false},
		{"the lane, in a session of before", lane, false, false, true},
	}
	for _, tt := range tests {
		b := newBench(t)
		b.judge = NewJudge(JudgeConfig{Policy: current{set}, Audit: b.log, Clock: time.Now})
		rec := *b.s.Device()
		rec.Status = device.Quarantined
		b.s.SetDevice(&rec)
		b.s.SetLane(tt.in)
		v := b.judge.Judge(t.Context(), b.s, tt.route, metadata())
		if v.Allow != tt.allow || (b.s.Context().Err() != nil) != tt.ends {
			t.Errorf("%s: %+v, session %v", tt.name, v, context.Cause(b.s.Context()))
		}
		if !tt.allow && v.Cause != protocol.CauseDevice {
			t.Errorf("%s: cause %v", tt.name, v.Cause)
		}
		recs := b.log.events("transaction.decided")
		if len(recs) != 1 || recs[0].Decision.Allow != tt.allow || recs[0].Decision.WouldDeny ||
			recs[0].Lane != (tt.route != nil && tt.route.Lane) {
			t.Errorf("%s: recorded %+v", tt.name, recs)
		}
	}
	for _, to := range []device.Status{device.Revoked, device.Retired, device.Pending} {
		b := newBench(t)
		b.judge = NewJudge(JudgeConfig{Policy: current{set}, Audit: b.log, Clock: time.Now})
		rec := *b.s.Device()
		rec.Status = to
		b.s.SetDevice(&rec)
		b.s.SetLane(true)
		if v := b.judge.Judge(t.Context(), b.s, lane, metadata()); v.Allow || b.s.Context().Err() == nil {
			t.Errorf("%s: %+v", to, v)
		}
	}
}

// careless is a set that allows everything to everybody.
func careless(t *testing.T) *policy.Set {
	t.Helper()
	dir := t.TempDir()
	const rule = `package anteroom.authz

decision := {"allow": true, "reasons": ["why not"], "denials": [], "obligations": []}

allow contains "why not"
`
	if err := os.WriteFile(filepath.Join(dir, "a.rego"), []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.Load(t.Context(), dir, policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}
