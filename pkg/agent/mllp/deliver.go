package mllp

import (
	"context"
	"crypto/tls"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/store"
)

type (
	session = store.Session[*message]
	stored  = store.Stored[*message]
)

// Read implements [store.Protocol].
func (p *Port) Read(body []byte) (*message, error) { return parse(body) }

// Extension implements [store.Protocol].
func (p *Port) Extension() string { return ".hl7" }

// Connect implements [store.Protocol].
func (p *Port) Connect(_ context.Context, conn *tls.Conn, _ *message) (session, error) {
	return newUpstream(p, conn), nil
}

// Takes implements [store.Session].
func (u *upstream) Takes(*message) bool { return true }

// Deliver implements [store.Session].
func (u *upstream) Deliver(ctx context.Context, s *stored) (store.Outcome, error) {
	p, m := u.port, s.Message
	got, err := u.ask(ctx, m)
	if err != nil {
		return 0, err
	}
	if got == nil { // none was asked for
		return store.Delivered, nil
	}
	p.cfg.Gateway.Served()
	code := got.answer.code
	// The application's answer, in place of the other one, is the device's if it
	// asked for it.
	if strings.HasPrefix(code, "A") && m.enhanced() && wants(m.field(16), code == "AA") {
		s.Then = func() { p.pass(got) }
	}
	switch code {
	case "AA", "CA":
		return store.Delivered, nil
	case "AR", "CR":
		p.Log.Error("the receiver rejects a message that was taken from the device", "message", s.Seq, "answer", code)
		return store.Rejected, nil
	}
	// AE, CE, and what is no word of HL7's.
	p.Log.Warn("the receiver answers with an error", "message", s.Seq, "try", s.Try+1)
	if s.Try+1 < p.cfg.Settings.Store.Tries {
		return store.Failed, nil
	}
	return store.Rejected, nil
}

// errand is the delivery of a message while its sender waits, for as long as ctx
// does.
func (p *Port) errand(ctx context.Context, m *message, answer chan<- []byte) *store.Errand[*message] {
	return &store.Errand[*message]{Message: m, Do: func(_ context.Context, open func(context.Context) (session, error)) error {
		s, err := open(ctx)
		if err != nil {
			answer <- nil
			return err
		}
		got, err := s.(*upstream).ask(ctx, m)
		if err != nil {
			answer <- nil
			// What comes now would be taken for the answer to another message.
			return err
		}
		p.cfg.Gateway.Served()
		p.Count(func(c *queue.Counts) { c.Delivered++ })
		answer <- got.body
		return nil
	}}
}

// ask sends a message and returns its answer, or nil where none was asked for.
func (u *upstream) ask(ctx context.Context, m *message) (*message, error) {
	ctx, cancel := context.WithTimeout(ctx, u.port.cfg.Settings.Store.Wait.D())
	defer cancel()
	// Whoever asks for errors only does not say when there was none; whoever asks
	// for the application's answer only has that.
	asked := !m.enhanced() || wants(m.field(15), true) || wants(m.field(16), true)
	return u.exchange(ctx, m, asked)
}

// later is told of what comes unasked: an application's answer to a message that
// was delivered before, or something that is no answer.
func (p *Port) later(m *message) {
	if m.answer == nil {
		p.Log.Warn("the receiver sends a message of its own, which is not carried")
		return
	}
	p.pass(m)
}

// pass gives an answer to the device, if it is connected.
func (p *Port) pass(m *message) {
	p.mu.Lock()
	conn := p.device
	p.mu.Unlock()
	if conn == nil {
		p.Log.Warn("an answer finds no device", "answer", m.answer.code)
		return
	}
	if err := conn.send(m.body); err != nil {
		p.Log.Warn("an answer does not reach the device", "answer", m.answer.code, "error", err)
	}
}
