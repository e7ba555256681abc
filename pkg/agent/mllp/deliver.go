package mllp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
)

const (
	// firstPause and lastPause bound the time between two tries of a message that
	// the receiver answers with an error, or that can not be taken off the store.
	firstPause = time.Second
	lastPause  = time.Minute
	// connectTime bounds one attempt to connect; the next follows at once.
	connectTime = 30 * time.Second
	// mostAside is how many rejected messages are kept. Somebody has to look.
	mostAside = 1000
)

// outcome is what became of the first message of the store.
type outcome int

const (
	off    outcome = iota // it is off the store
	again                 // there was no answer; the gateway's own back-off is pause enough
	paused                // it is tried again after a pause
)

// deliver delivers one message after the other: what is stored first, and then
// what a device waits with.
func (p *Port) deliver(ctx context.Context) {
	var up *upstream
	defer func() { up.close() }()
	tries := 0
	for ctx.Err() == nil {
		it, err := p.queue.First()
		if err != nil {
			p.log.Error("reading the store", "error", err)
			tries = pause(ctx, tries)
			continue
		}
		if it != nil {
			var what outcome
			switch what, up = p.stored(ctx, up, it.Seq, it.Body, tries); what {
			case off:
				tries = 0
			case paused:
				tries = pause(ctx, tries)
			}
			continue
		}
		select {
		case <-p.queue.Came():
		case d := <-p.direct:
			up = p.now(up, d)
		case <-up.ended():
			up.close()
			up = nil
		case <-ctx.Done():
		}
	}
}

// pause waits, longer each time, and returns how many times it did.
func pause(ctx context.Context, tries int) int {
	wait := min(firstPause<<min(tries, 10), lastPause)
	select {
	case <-time.After(wait - rand.N(wait/2)):
	case <-ctx.Done():
	}
	return tries + 1
}

// connected returns a connection that was good a moment ago.
func (p *Port) connected(ctx context.Context, up *upstream) (*upstream, error) {
	if up != nil {
		select {
		case <-up.ended():
			up.close()
		default:
			return up, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := p.cfg.Gateway.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return newUpstream(conn, int(p.cfg.Settings.Store.Message), p.later), nil
}

// stored delivers the first message of the store.
func (p *Port) stored(ctx context.Context, up *upstream, seq uint64, body []byte, tries int) (outcome, *upstream) {
	if seq == p.given {
		return p.off(seq), up
	}
	m, err := parse(body)
	if err != nil { // it was one when it was put there
		p.log.Error("a stored message can not be read", "message", seq)
		return p.aside(seq, body), up
	}
	up, err = p.connected(ctx, up)
	if err != nil {
		return again, nil
	}
	got, err := p.exchange(ctx, up, m)
	if err != nil {
		if ctx.Err() == nil {
			p.log.Warn("a message has no answer and is sent again", "message", seq, "error", err)
			p.count(func(c *queue.Counts) { c.Again++ })
			p.cfg.Gateway.Refused(err)
		}
		up.close()
		return again, nil
	}
	if got == nil { // none was asked for
		return p.off(seq), up
	}
	p.cfg.Gateway.Served()
	what := paused
	switch code := got.answer.code; code {
	case "AA", "CA":
		what = p.off(seq)
	case "AR", "CR":
		p.log.Error("the receiver rejects a message that was taken from the device", "message", seq, "answer", code)
		what = p.aside(seq, body)
	default: // AE, CE, and what is no word of HL7's
		p.log.Warn("the receiver answers with an error", "message", seq, "try", tries+1)
		if tries+1 >= p.cfg.Settings.Store.Tries {
			what = p.aside(seq, body)
		}
	}
	// The application's answer, in place of the other one, is the device's if it
	// asked for it.
	if code := got.answer.code; what == off && strings.HasPrefix(code, "A") && m.enhanced() && wants(m.field(16), code == "AA") {
		p.pass(got)
	}
	return what, up
}

// off takes a message that was delivered off the store.
func (p *Port) off(seq uint64) outcome {
	p.given = seq
	if err := p.queue.Done(seq); err != nil {
		// It is not sent again, unless the agent dies; no other is sent either.
		p.log.Error("a delivered message can not be taken off the store", "message", seq, "error", err)
		return paused
	}
	p.count(func(c *queue.Counts) { c.Delivered++ })
	return off
}

// aside keeps a message that can not be delivered, and takes it off the store. A
// message that can not be kept stays where it is, and holds the others up.
func (p *Port) aside(seq uint64, body []byte) outcome {
	path, err := keepAside(filepath.Join(p.cfg.Dir, "aside"), fmt.Sprintf("%d.hl7", seq), body)
	if err == nil {
		err = p.queue.Done(seq)
	}
	if err != nil {
		p.log.Error("a rejected message can not be set aside", "message", seq, "error", err)
		return paused
	}
	p.count(func(c *queue.Counts) { c.SetAside++ })
	p.log.Error("a message is set aside: look at it, and remove it", "message", seq, "file", path)
	return off
}

func keepAside(dir, name string, body []byte) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if len(there) >= mostAside {
		return "", fmt.Errorf("%s holds %d messages, and somebody has to look at them", dir, len(there))
	}
	f, err := os.CreateTemp(dir, ".new-") // 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	path := filepath.Join(dir, name)
	_, err = f.Write(body)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", err
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	return path, errors.Join(d.Sync(), d.Close())
}

// now delivers a message while its sender waits.
func (p *Port) now(up *upstream, d *direct) *upstream {
	up, err := p.connected(d.ctx, up)
	if err != nil {
		d.answer <- nil
		return nil
	}
	got, err := p.exchange(d.ctx, up, d.message)
	if err != nil {
		d.answer <- nil
		// What comes now would be taken for the answer to another message.
		up.close()
		return nil
	}
	p.cfg.Gateway.Served()
	p.count(func(c *queue.Counts) { c.Delivered++ })
	d.answer <- got.body
	return up
}

// exchange sends a message and returns its answer, or nil where none was asked for.
func (p *Port) exchange(ctx context.Context, up *upstream, m *message) (*message, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Settings.Store.Wait.D())
	defer cancel()
	// Whoever asks for errors only does not say when there was none; whoever asks
	// for the application's answer only has that.
	asked := !m.enhanced() || wants(m.field(15), true) || wants(m.field(16), true)
	return up.exchange(ctx, m, asked)
}

// later is told of what comes unasked: an application's answer to a message that
// was delivered before, or something that is no answer.
func (p *Port) later(m *message) {
	if m.answer == nil {
		p.log.Warn("the receiver sends a message of its own, which is not carried")
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
		p.log.Warn("an answer finds no device", "answer", m.answer.code)
		return
	}
	if err := conn.send(m.body); err != nil {
		p.log.Warn("an answer does not reach the device", "answer", m.answer.code, "error", err)
	}
}
