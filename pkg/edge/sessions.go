package edge

import (
	"container/heap"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/yield"
)

// Why a session was ended by us. The cause of a session's context is one of
// these or a *Refusal.
var (
	errKilled  = errors.New("ended by an operator")
	errClosing = errors.New("the gateway is stopping")
	errExpired = errors.New("the device's certificate expired")
)

// Sessions is the table of live sessions. It follows the registry: when a
// change of a device's record returns to whoever made it, the device's sessions
// have the new record or are ended.
type Sessions struct {
	reg     Registry
	now     func() time.Time
	cancel  func()
	wg      sync.WaitGroup                  // judging held transactions anew
	lanes   atomic.Pointer[map[string]bool] // listeners that let quarantined devices in
	doubles *doubles

	mu       sync.RWMutex
	byID     map[string]*entry
	byDevice map[string][]*entry
	ends     ends
	next     *time.Timer // of the first of ends
}

// entry is a session in the table.
type entry struct {
	*protocol.Session
	at int // in ends, or -1
}

// laneOn reports whether a listener lets devices in quarantine in.
func (t *Sessions) laneOn(listener string) bool {
	m := t.lanes.Load()
	return m != nil && (*m)[listener]
}

// SetLanes names the listeners that let devices in quarantine in, because there
// is a lane for them behind it. Sessions of such devices on others are ended. The
// caller does not change the map any more.
func (t *Sessions) SetLanes(listeners map[string]bool) {
	t.lanes.Store(&listeners)
	for _, s := range t.List() {
		if s.InLane() && !listeners[s.Listener] {
			s.End(&Refusal{Code: refusedStatus + string(device.Quarantined), Device: s.Device().ID,
				Why: fmt.Sprintf("device %s is quarantined, and there is no lane any more", s.Device().ID)})
		}
	}
}

// newSessions returns an empty table that follows reg until Close.
func newSessions(reg Registry, now func() time.Time) *Sessions {
	t := &Sessions{reg: reg, now: now, byID: map[string]*entry{}, byDevice: map[string][]*entry{}, doubles: newDoubles(now)}
	t.next = time.AfterFunc(never, t.expire)
	t.cancel = reg.Subscribe(t.changed)
	return t
}

// Close stops following the registry and waits for what it began. Sessions
// still in the table stay as they are.
func (t *Sessions) Close() {
	t.cancel()
	t.next.Stop()
	t.wg.Wait()
}

// add puts a session in the table, unless its device has limit of them on the
// listener already. The registry is asked again once the session can be found
// by a change, so that none falls between the handshake and the table.
func (t *Sessions) add(s *protocol.Session, limit int) error {
	id := s.Device().ID
	e := &entry{Session: s}
	t.mu.Lock()
	n := 0
	for _, o := range t.byDevice[id] {
		if o.Listener == s.Listener {
			n++
		}
	}
	if n >= limit {
		t.mu.Unlock()
		return &Refusal{
			Code: "too-many-connections", Device: id,
			Why: fmt.Sprintf("device %s has %d connections on this listener already, the limit", id, n),
		}
	}
	var others []*protocol.Session
	for _, o := range t.byDevice[id] {
		if o.Fingerprint == s.Fingerprint {
			others = append(others, o.Session)
		}
	}
	t.byID[s.ID] = e
	t.byDevice[id] = append(t.byDevice[id], e)
	t.doubles.began(s, others)
	heap.Push(&t.ends, e)
	if e.at == 0 {
		t.await(t.now())
	}
	t.mu.Unlock()

	rec, ok := t.reg.Get(id)
	if !ok {
		rec = s.Device()
	}
	if err := t.refresh(e, rec, ok); err != nil {
		t.remove(s)
		return err
	}
	return nil
}

// refresh gives a session its device's record of now, and ends it if that does
// not permit it.
func (t *Sessions) refresh(e *entry, rec *device.Record, known bool) error {
	var err error
	if !known {
		err = &Refusal{Code: refusedUnknown, Device: rec.ID, Why: "device " + rec.ID + " was removed from the registry"}
	} else {
		err = admissible(rec, e.Fingerprint, e.NotAfter, t.now(), e.InLane() && t.laneOn(e.Listener))
	}
	// A record that came later must not be overwritten by one that was read
	// earlier: add and a change may overlap.
	t.mu.Lock()
	if rec.Revision >= e.Device().Revision {
		e.SetDevice(rec)
		// What was let in for the lane goes on as any other session once the
		// device is released; should it be quarantined again, it ends as any other.
		if known && rec.Status != device.Quarantined {
			e.SetLane(false)
		}
	}
	t.mu.Unlock()
	if err != nil {
		e.End(err)
	}
	return err
}

// remove takes a session out of the table.
func (t *Sessions) remove(s *protocol.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[s.ID]
	if e == nil {
		return
	}
	if e.at >= 0 {
		heap.Remove(&t.ends, e.at)
	}
	t.doubles.ended(s)
	delete(t.byID, s.ID)
	id := s.Device().ID
	rest := slices.DeleteFunc(t.byDevice[id], func(o *entry) bool { return o == e })
	if len(rest) == 0 {
		delete(t.byDevice, id)
	} else {
		t.byDevice[id] = rest
	}
}

// changed is called by the registry for every change, in order.
func (t *Sessions) changed(old, rec *device.Record) {
	known := rec != nil
	if !known {
		rec = old
	}
	t.mu.RLock()
	es := slices.Clone(t.byDevice[rec.ID])
	t.mu.RUnlock()
	for _, e := range es {
		if t.refresh(e, rec, known) == nil && e.Holding() {
			// Judging may have to wait for the audit log; a revocation behind
			// this change must not wait with it.
			t.wg.Go(e.Recheck)
		}
	}
}

// Recheck judges the held transactions of all sessions anew; the policy engine
// calls it when another set came into force.
func (t *Sessions) Recheck() {
	var at atomic.Int64
	all := t.List()
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			pause := yield.NewPause()
			defer pause.Close()
			for i := at.Add(1); i <= int64(len(all)); i = at.Add(1) {
				all[i-1].Recheck()
				if i%yieldAfter == 0 {
					pause.Take()
				}
			}
		})
	}
	wg.Wait()
}

// yieldAfter is after how many sessions that were judged anew others run, those above
// all who end what was denied.
const yieldAfter = 16

// List returns the live sessions, oldest first.
func (t *Sessions) List() []*protocol.Session {
	t.mu.RLock()
	out := make([]*protocol.Session, 0, len(t.byID))
	for _, e := range t.byID {
		out = append(out, e.Session)
	}
	t.mu.RUnlock()
	slices.SortFunc(out, func(a, b *protocol.Session) int { return a.Started.Compare(b.Started) })
	return out
}

// Len returns the number of live sessions.
func (t *Sessions) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// Kill ends a session and reports whether there was one of that id.
func (t *Sessions) Kill(id string) bool {
	t.mu.RLock()
	e := t.byID[id]
	t.mu.RUnlock()
	if e != nil {
		e.End(errKilled)
	}
	return e != nil
}
