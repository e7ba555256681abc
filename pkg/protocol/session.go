package protocol

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TLS holds the facts of a session's TLS connection.
type TLS struct {
	Version string // "1.3"
	Cipher  string // IANA name
	Group   string // key exchange group, such as "X25519MLKEM768"
	SNI     string // lower case; "" if the device sent none
	ALPN    string // negotiated application protocol, or ""
	Resumed bool
}

// A Session is one live device connection: who it is, how it came, and whether
// it may go on. Its identity was taken from the certificate shown in the
// handshake and from nothing else (invariant 2).
//
// All methods are safe for concurrent use.
type Session struct {
	ID          string
	Listener    string
	Remote      netip.AddrPort
	Started     time.Time
	TLS         TLS
	Certificate []byte    // that of the handshake, DER
	NotAfter    time.Time // its end
	Fingerprint string    // its SHA-256, lower-case hex

	device   atomic.Pointer[device.Record]
	memo     atomic.Pointer[any]
	lane     atomic.Bool
	draining atomic.Bool
	ctx      context.Context
	end      context.CancelCauseFunc
	ongoing  atomic.Int64

	mu      sync.Mutex
	held    map[*held]struct{}
	onDrain func()
	onEnd   []func()
	limit   time.Duration // age at which it expires, or 0
	expired bool
	expiry  *time.Timer // of its expiry, then of its end
}

// held is one long-lived transaction, decided once and asked about again when
// the answer may have changed.
type held struct {
	again func() bool
	stop  func()
}

// NewSession returns a session that lives until [Session.End] is called. The
// caller fills the exported fields before it shares the session.
func NewSession(rec *device.Record) *Session {
	s := &Session{}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	s.device.Store(rec)
	return s
}

// Device returns the device's registry record as it stands now.
func (s *Session) Device() *device.Record { return s.device.Load() }

// SetDevice replaces the record. Only the session table calls it, when the
// registry changed.
func (s *Session) SetDevice(rec *device.Record) { s.device.Store(rec) }

// Memo returns what [Session.SetMemo] was given last, or nil.
func (s *Session) Memo() any {
	if p := s.memo.Load(); p != nil {
		return *p
	}
	return nil
}

// SetMemo keeps what the judge knows from one transaction for the next. An adapter
// sets it to nil when the session has been idle for long.
func (s *Session) SetMemo(v any) {
	if v == nil {
		s.memo.Store(nil)
		return
	}
	s.memo.Store(&v)
}

// InLane reports whether the session was begun by a device in quarantine, for
// the routes that are a lane and no others, and the quarantine has not ended.
// Who reads both asks this first: once it is false the record is a later one.
func (s *Session) InLane() bool { return s.lane.Load() }

// SetLane says what [Session.InLane] reports. Only the edge calls it.
func (s *Session) SetLane(in bool) { s.lane.Store(in) }

// Context ends when the session does; its cause says why.
func (s *Session) Context() context.Context { return s.ctx }

// End ends the session at once. The first cause is the one that counts. What
// [Session.OnEnd] was given is called, each by a goroutine of its own.
func (s *Session) End(cause error) {
	s.end(cause)
	s.mu.Lock()
	fs := s.onEnd
	s.onEnd = nil
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.mu.Unlock()
	for _, f := range fs {
		go f()
	}
}

// OnEnd has f called once when the session ends, at once if it has. It is what
// interrupts an adapter, and takes a tenth of what [context.AfterFunc] does for as
// long as the connection lasts.
func (s *Session) OnEnd(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		go f()
		return
	}
	s.onEnd = append(s.onEnd, f)
}

// Close ends a session that its adapter is done with: there is nothing left to
// interrupt.
func (s *Session) Close(cause error) {
	s.mu.Lock()
	s.onEnd = nil
	s.mu.Unlock()
	s.End(cause)
}

// Drain asks the session to finish what it is doing and take nothing new.
func (s *Session) Drain() {
	s.mu.Lock()
	f := s.onDrain
	again := s.draining.Swap(true)
	s.mu.Unlock()
	if f != nil && !again {
		f()
	}
}

// OnDrain has f called once when the session is asked to finish, at once if it
// was already. There is one such function; the adapter that serves the session
// sets it, to wake what waits without keeping a goroutine for it.
func (s *Session) OnDrain(f func()) {
	s.mu.Lock()
	s.onDrain = f
	late := s.draining.Load()
	s.mu.Unlock()
	if late {
		f()
	}
}

// IsDraining reports whether the session was asked to finish.
func (s *Session) IsDraining() bool { return s.draining.Load() }

// Begin counts a transaction as under way and returns what ends the count.
// Status pages show it.
func (s *Session) Begin() { s.ongoing.Add(1) }

// Finish ends the count of [Session.Begin].
func (s *Session) Finish() { s.ongoing.Add(-1) }

// Ongoing returns the number of transactions under way.
func (s *Session) Ongoing() int64 { return s.ongoing.Load() }

// Hold registers a transaction that lasts (a WebSocket, a stream): when the
// policy set or the device's record changes, again is called to judge it anew,
// and stop, by a goroutine of its own, if it may not go on. The caller calls
// release when the transaction is over.
func (s *Session) Hold(again func() bool, stop func()) (release func()) {
	h := &held{again, stop}
	s.mu.Lock()
	if s.held == nil {
		s.held = make(map[*held]struct{})
	}
	s.held[h] = struct{}{}
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		delete(s.held, h)
		s.mu.Unlock()
	}
}

// Holding reports whether there are held transactions.
func (s *Session) Holding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held) > 0
}

// Recheck judges every held transaction anew and has those stopped that may not go
// on. It does not wait for that: to be stopped, a transaction may have to write to
// a device that reads nothing, and other devices' wait to be judged.
func (s *Session) Recheck() {
	s.mu.Lock()
	hs := s.heldNow()
	s.mu.Unlock()
	for _, h := range hs {
		if !h.again() {
			go h.stop()
		}
	}
}

// heldNow lists what is held. The caller holds mu.
func (s *Session) heldNow() []*held {
	hs := make([]*held, 0, len(s.held))
	for h := range s.held {
		hs = append(hs, h)
	}
	return hs
}
