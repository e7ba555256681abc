package edge

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// fleetOf returns a registry of n devices with a certificate each, whose fingerprint
// is the device's id.
func fleetOf(n int) *registry {
	reg := &registry{recs: map[string]*device.Record{}}
	for i := range n {
		id := fmt.Sprintf("monitor-%d", i)
		reg.recs[id] = &device.Record{ID: id, Class: "patient-monitor", Status: device.Active, Certificates: []device.Certificate{{Fingerprint: id}}}
	}
	return reg
}

// sessionOf returns a session of such a device, in no table.
func sessionOf(reg *registry, id string, notAfter time.Time) *protocol.Session {
	rec, _ := reg.Get(id)
	s := protocol.NewSession(rec)
	s.ID, s.Listener, s.Fingerprint, s.NotAfter = newSessionID(), "devices", id, notAfter
	s.Remote = netip.MustParseAddrPort("192.0.2.1:1000")
	return s
}

// TestEachSessionEndsWithItsOwnCertificate: at that moment and not before, in
// whatever order they began, and whoever has left meanwhile.
func TestEachSessionEndsWithItsOwnCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		reg := fleetOf(n)
		table := newSessions(reg, time.Now)
		defer table.Close()
		var mu sync.Mutex
		ended, want := map[string]time.Time{}, map[string]time.Time{}
		for i := range n {
			// Some end at the same second.
			id, end := fmt.Sprintf("monitor-%d", i), time.Now().Add(time.Hour+time.Duration(rand.IntN(n))*time.Second)
			s := sessionOf(reg, id, end)
			s.OnEnd(func() {
				mu.Lock()
				ended[id] = time.Now()
				mu.Unlock()
				table.remove(s)
			})
			if err := table.add(s, 1); err != nil {
				t.Fatal(err)
			}
			if i%7 == 0 {
				s.Close(errFinished)
				table.remove(s)
				continue
			}
			want[id] = end
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if len(ended) != len(want) || table.Len() != 0 || len(table.ends) != 0 {
			t.Errorf("%d of %d ended, and %d are in the table, %d to end", len(ended), len(want), table.Len(), len(table.ends))
		}
		for id, end := range want {
			if at := ended[id]; !at.Equal(end) {
				t.Errorf("%s ended %v after its certificate", id, at.Sub(end))
			}
		}
	})
}

// TestAClockThatIsSetBackEndsNoSessionEarly: the end is when the clock says so.
func TestAClockThatIsSetBackEndsNoSessionEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := fleetOf(1)
		var back atomic.Int64
		table := newSessions(reg, func() time.Time { return time.Now().Add(-time.Duration(back.Load())) })
		defer table.Close()
		began := time.Now()
		s := sessionOf(reg, "monitor-0", began.Add(time.Hour))
		if err := table.add(s, 1); err != nil {
			t.Fatal(err)
		}
		back.Store(int64(time.Minute))
		<-s.Context().Done()
		if took := time.Since(began); took != time.Hour+time.Minute {
			t.Errorf("ended after %v", took)
		}
		table.remove(s)
	})
}

// TestAClockThatWasWrongLetsNoSessionLiveOn: one bad moment of it, when the timer comes
// for a session that has left, and a step forward, as after a machine was suspended.
func TestAClockThatWasWrongLetsNoSessionLiveOn(t *testing.T) {
	for name, tt := range map[string]struct {
		at    time.Duration // when it begins to be wrong
		wrong time.Duration
		until time.Duration // it is right again
		ends  time.Duration // of the certificate of who stays
		over  time.Duration // that the session may last, by the right clock
	}{
		"back for two minutes": {at: time.Hour - time.Second, wrong: -30 * 24 * time.Hour, until: 2 * time.Minute, ends: 3 * time.Hour},
		"forward":              {at: 2 * time.Hour, wrong: 31 * 24 * time.Hour, ends: 30 * 24 * time.Hour, over: lookAnew},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := fleetOf(2)
				var wrong atomic.Int64
				table := newSessions(reg, func() time.Time { return time.Now().Add(time.Duration(wrong.Load())) })
				defer table.Close()
				began := time.Now()
				leaves, stays := sessionOf(reg, "monitor-0", began.Add(time.Hour)), sessionOf(reg, "monitor-1", began.Add(tt.ends))
				for _, s := range []*protocol.Session{leaves, stays} {
					if err := table.add(s, 1); err != nil {
						t.Fatal(err)
					}
				}
				leaves.Close(errFinished)
				table.remove(leaves)
				time.Sleep(tt.at)
				wrong.Store(int64(tt.wrong))
				end := tt.ends
				if tt.until > 0 {
					time.Sleep(tt.until)
					wrong.Store(0)
				} else {
					end = time.Since(began) // it has ended by now
				}
				<-stays.Context().Done()
				if over := time.Since(began) - end; over < 0 || over > tt.over {
					t.Errorf("it ended %v after its certificate", over)
				}
				table.remove(stays)
			})
		})
	}
}
