package policy

import "github.com/anteroom-iomt/anteroom/pkg/protocol"

// An Answer is a decision that is kept for when its question is asked once more.
// It never changes.
type Answer struct {
	set      *Set
	device   deviceFacts
	route    *protocol.Route
	decision Decision
}

// Keep returns d, which was decided on q, for [Set.Recall]; nil if the answer may be
// another the next time, or if nothing is to be remembered.
func (s *Set) Keep(q *Question, d *Decision) *Answer {
	if s.cache == nil || s.passing || d.Fault != "" || q.Device == nil || q.BreakGlass != nil {
		return nil
	}
	a := &Answer{set: s, device: deviceFactsOf(q), route: q.Route, decision: *d}
	a.decision.Elapsed = 0
	return a
}

// Recall answers q as it was answered before; ok is false if something that the
// answer depends on is another. The caller vouches that q's Session is the same and
// that its Transaction has the same facts (see protocol.Transaction.Like).
func (s *Set) Recall(a *Answer, q *Question) (d Decision, ok bool) {
	if a.set != s || a.route != q.Route || q.BreakGlass != nil || q.Device == nil || a.device != deviceFactsOf(q) || !s.stands(&a.decision) {
		return Decision{}, false
	}
	s.cache.tally[0].hits.Add(1)
	return a.decision, true
}

// passes reports whether a set reads what changes by itself during a session, other
// than what is known of the device.
func passes(want *paths) bool {
	return want.at("time") != nil || want.at("session").at("age_s") != nil
}
