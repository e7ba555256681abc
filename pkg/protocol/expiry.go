package protocol

import (
	"errors"
	"time"
)

// ErrAged is the cause of a session that was ended because it did not finish when
// it had reached the age that a policy set for it.
var ErrAged = errors.New("the session is older than its policy lets it become")

// ExpiryGrace is how long a session that has expired may take to finish what is
// under way.
const ExpiryGrace = 30 * time.Second

// Expire has the session expire at an age: it takes nothing new from then on, what
// it holds is stopped, and what is under way has [ExpiryGrace] to finish before
// the session ends. A session that is older already has expired when Expire
// returns. The lowest age that was asked for counts. now is the time by the clock
// that Started is of.
func (s *Session) Expire(age time.Duration, now time.Time) {
	s.mu.Lock()
	if s.expired || s.limit > 0 && s.limit <= age || s.ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	if s.expiry != nil && !s.expiry.Stop() {
		s.mu.Unlock()
		return // it expires at this moment
	}
	s.limit = age
	left := s.Started.Add(age).Sub(now)
	if left > 0 {
		s.expiry = time.AfterFunc(left, s.expire)
	}
	s.mu.Unlock()
	if left <= 0 {
		s.expire()
	}
}

// expire asks the session to finish, and sees to it that it does.
func (s *Session) expire() {
	s.mu.Lock()
	if s.ctx.Err() == nil {
		s.expiry = time.AfterFunc(ExpiryGrace, func() { s.End(ErrAged) })
	}
	s.expired = true
	hs := s.heldNow()
	s.mu.Unlock()
	s.Drain()
	for _, h := range hs {
		go h.stop() // see Recheck
	}
}
