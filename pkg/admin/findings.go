package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/finding"
)

// A Found is a finding with what to do about it.
type Found struct {
	finding.Finding
	Advice string `json:"advice,omitempty"` // of an open one
}

// A ClockReading is what a device last said of the time.
type ClockReading struct {
	Error time.Duration `json:"error"` // how far it is ahead; less than nothing: behind
	At    time.Time     `json:"at"`    // when it said so
}

// Findings are what the gateway found out by itself.
type Findings struct {
	Findings []Found `json:"findings"`
	// Clock is the device's, if it was asked for one and the gateway runs.
	Clock *ClockReading `json:"clock,omitempty"`
}

// AcceptRequest says that a person knows of a finding.
type AcceptRequest struct {
	ID   string       `json:"id"`
	Kind finding.Kind `json:"kind"`
}

func withAdvice(fs ...finding.Finding) []Found {
	out := make([]Found, len(fs))
	for i, f := range fs {
		out[i].Finding = f
		if f.Open() {
			out[i].Advice = f.Kind.Advice(f.Device)
		}
	}
	return out
}

// Findings returns what was found out about a device, or without an id all that is
// open.
func (s *Service) Findings(_ context.Context, _ Actor, req *Name) (*Findings, error) {
	if req.ID == "" {
		return &Findings{Findings: withAdvice(s.cfg.State.Findings.Standing()...)}, nil
	}
	if _, ok := s.cfg.State.Devices.Get(req.ID); !ok {
		return nil, fmt.Errorf("%s: %w", req.ID, device.ErrNotFound)
	}
	out := &Findings{Findings: withAdvice(s.cfg.State.Findings.Of(req.ID)...)}
	if s.cfg.Live != nil {
		out.Clock = s.cfg.Live.Clock(req.ID)
	}
	return out, nil
}

// Accept says that a person knows of a finding: it is over, and what is as it was
// then is not reported again.
func (s *Service) Accept(ctx context.Context, a Actor, req *AcceptRequest) (*Found, error) {
	rec, ok := s.cfg.State.Devices.Get(req.ID)
	if !ok {
		return nil, fmt.Errorf("%s: %w", req.ID, device.ErrNotFound)
	}
	f, err := s.cfg.State.Findings.Accept(ctx, req.ID, req.Kind, a.Name)
	if errors.Is(err, finding.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", device.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	return &withAdvice(f)[0], s.commit(ctx, a, "finding.accepted", rec, worded("kind", string(f.Kind)), worded("what", f.What))
}

// describeFindings says on the status page what a person should look at.
func (s *Service) describeFindings(out *Status) {
	count := map[finding.Kind]int{}
	for _, f := range s.cfg.State.Findings.Standing() {
		count[f.Kind]++
	}
	if n := count[finding.Clone]; n > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the certificates of %s are in use at two places at once: device findings names them", plural(n, "device")))
	}
	if n := count[finding.Clock]; n > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the clocks of %s are wrong: device findings names them", plural(n, "device")))
	}
}

// ClockError says how wrong a clock is.
func ClockError(ahead time.Duration) string {
	way := "fast"
	if ahead < 0 {
		way = "slow"
	}
	d := ahead.Abs().Round(time.Second)
	if d < 2*time.Second {
		return "right"
	}
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days %s", int(d.Hours()/24), way)
	}
	return d.String() + " " + way
}
