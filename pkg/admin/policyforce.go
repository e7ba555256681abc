package admin

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// PolicySource returns the files of a pushed revision.
func (s *State) PolicySource(number int) (*policy.Source, error) {
	archive, err := s.Policies.Archive(number)
	if err != nil {
		return nil, err
	}
	opt := policy.Options{MaxBytes: int64(s.Config().Policy.MaxSize)}
	b, err := bundle.Read(bytes.NewReader(archive), bundle.Limits{Bytes: opt.MaxBytes, Files: policy.DefaultMaxFiles})
	if err != nil {
		return nil, fmt.Errorf("policy revision %d: %w", number, err)
	}
	return policy.FromBundle(b, fmt.Sprintf("pushed revision %d", number), opt)
}

// policySet returns the policy set that would be in force if a gateway ran.
func (s *State) policySet(ctx context.Context) (*policy.Set, error) {
	cfg := &s.Config().Policy
	loc, err := time.LoadLocation(s.Config().Facility.Timezone)
	if err != nil {
		return nil, fmt.Errorf("time zone: %w", err)
	}
	opt := policy.Options{Location: loc, MaxBytes: int64(cfg.MaxSize), Timeout: cfg.Timeout.D()}
	switch cfg.Source {
	case "bundle":
		return nil, fmt.Errorf("%w, and the policy set comes from a bundle server (policy.source)", errNotRunning)
	case "pushed":
		if in, ok := s.Policies.InForce(); ok {
			src, err := s.PolicySource(in.Number)
			if err != nil {
				return nil, err
			}
			return src.Compile(ctx, opt)
		}
	}
	return policy.Load(ctx, cfg.Enforce, opt)
}

// Enforce has the running gateway's engine do what the history says: enforce the
// revision in force, and the one on trial with its devices. Without a gateway
// there is nothing to do.
func (s *Service) Enforce(ctx context.Context) error {
	e := s.cfg.Engine
	if e == nil {
		return nil
	}
	st := s.cfg.State
	if in, ok := st.Policies.InForce(); ok {
		src, err := st.PolicySource(in.Number)
		if err != nil {
			return err
		}
		if err := e.Put(ctx, src); err != nil {
			return err
		}
	}
	c, _, ok := st.Policies.Canary()
	if !ok {
		e.EndTrial()
		return nil
	}
	src, err := st.PolicySource(c.Number)
	if err != nil {
		return err
	}
	return e.Try(ctx, src, policy.Trial{
		Devices: c.Devices, Classes: c.Classes, MaxDenials: c.MaxDenials, Window: c.Window, Failed: s.cfg.TrialFailed,
	})
}

// RollBackPolicy puts an earlier revision in force: the one that is named by
// number or content hash, or the one that was in force before. With a trial
// under way and nothing named it only ends the trial.
func (s *Service) RollBackPolicy(ctx context.Context, a Actor, req *Name) (*Pushed, error) {
	s.policies.Lock()
	defer s.policies.Unlock()
	if err := s.pushing(); err != nil {
		return nil, err
	}
	h := s.cfg.State.Policies
	out := &Pushed{}
	if e, ok := h.InForce(); ok {
		out.Previous = &e
	}
	c, tried, trying := h.Canary()
	if trying {
		out.Canary = &c
	}
	why := "rolled back by " + a.Name
	if trying && req.ID == "" {
		if err := h.EndCanary(why); err != nil {
			return nil, err
		}
		out.Entry = tried
		if err := s.Enforce(ctx); err != nil {
			return nil, err
		}
		s.recheck()
		return out, s.commit(ctx, a, "policy.canary-ended", nil, entryFields(&tried)...)
	}
	to, err := h.Before()
	if req.ID != "" {
		to, err = h.Find(req.ID)
	}
	if err != nil {
		return nil, err
	}
	if out.Previous != nil && to.Number == out.Previous.Number && !trying {
		return nil, bundle.Conflict(fmt.Sprintf("revision %s is in force already", to.Short()))
	}
	src, err := s.cfg.State.PolicySource(to.Number)
	if err != nil {
		return nil, err
	}
	if err := s.loads(ctx, src); err != nil {
		return nil, fmt.Errorf("revision %s does not load any more, nothing was changed: %w", to.Short(), err)
	}
	if err := h.Enforce(to.Number, why); err != nil {
		return nil, err
	}
	if out.Entry, err = h.Find(fmt.Sprint(to.Number)); err != nil {
		return nil, err
	}
	if err := s.Enforce(ctx); err != nil {
		return nil, err
	}
	s.recheck()
	return out, s.commit(ctx, a, "policy.rolled-back", nil, s.moved(out)...)
}

// PromotePolicy puts the revision on trial in force for all devices.
func (s *Service) PromotePolicy(ctx context.Context, a Actor, _ *struct{}) (*Pushed, error) {
	s.policies.Lock()
	defer s.policies.Unlock()
	if err := s.pushing(); err != nil {
		return nil, err
	}
	h := s.cfg.State.Policies
	c, e, ok := h.Canary()
	if !ok {
		return nil, bundle.Conflict("no revision is on trial")
	}
	if s.cfg.Engine != nil {
		if _, ok := s.cfg.Engine.OnTrial(); !ok {
			return nil, bundle.Conflict(fmt.Sprintf("the trial of revision %s has just failed", e.Short()))
		}
	}
	out := &Pushed{Canary: &c}
	if p, ok := h.InForce(); ok {
		out.Previous = &p
	}
	if err := h.Enforce(c.Number, ""); err != nil {
		return nil, err
	}
	var err error
	if out.Entry, err = h.Find(fmt.Sprint(c.Number)); err != nil {
		return nil, err
	}
	// Enforce puts it in force before it ends the trial, so that its devices
	// never go back.
	if err := s.Enforce(ctx); err != nil {
		return nil, err
	}
	return out, s.commit(ctx, a, "policy.promoted", nil, s.moved(out)...)
}

func (s *Service) moved(p *Pushed) []protocol.Field {
	from := "directory"
	if p.Previous != nil {
		from = p.Previous.Short()
	}
	return append(entryFields(&p.Entry), protocol.Field{Name: "previous", Value: protocol.String(from)})
}

// recheck has what sessions hold decided anew; the engine itself does so only
// when the set in force becomes another.
func (s *Service) recheck() {
	if s.cfg.Live != nil {
		s.cfg.Live.Recheck()
	}
}

// PolicyHistory returns the revisions that are kept, oldest first.
func (s *Service) PolicyHistory(context.Context, Actor, *struct{}) ([]bundle.Entry, error) {
	return s.cfg.State.Policies.Entries(), nil
}

// PolicyRevision returns a revision with its files; without a name the one in
// force.
func (s *Service) PolicyRevision(_ context.Context, _ Actor, req *Name) (*Revision, error) {
	h := s.cfg.State.Policies
	e, ok := h.InForce()
	if req.ID != "" {
		var err error
		if e, err = h.Find(req.ID); err != nil {
			return nil, err
		}
	} else if !ok {
		return nil, fmt.Errorf("%w: no pushed revision is in force", bundle.ErrNoRevision)
	}
	archive, err := h.Archive(e.Number)
	if err != nil {
		return nil, err
	}
	return &Revision{Entry: e, Bundle: archive}, nil
}

// PolicyState says what decides.
func (s *Service) PolicyState(ctx context.Context, a Actor, req *struct{}) (*PolicyStatus, error) {
	st, err := s.Status(ctx, a, req)
	if err != nil {
		return nil, err
	}
	return &st.Policy, nil
}

// describePolicy fills in what the state directory knows.
func (s *Service) describePolicy(out *PolicyStatus) {
	cfg := &s.cfg.State.Config().Policy
	out.Source = cfg.Source
	if cfg.Source != "pushed" {
		return
	}
	h := s.cfg.State.Policies
	out.Last = h.Last()
	if e, ok := h.InForce(); ok {
		out.Pushed = &e
		if s.cfg.Engine == nil {
			out.Dir, out.Revision = fmt.Sprintf("pushed revision %d", e.Number), e.Revision
		}
	}
	if c, e, ok := h.Canary(); ok {
		out.Canary = &CanaryStatus{Canary: c, Entry: e}
		if s.cfg.Engine != nil {
			if rep, ok := s.cfg.Engine.OnTrial(); ok {
				out.Canary.Report = &rep
			}
		}
	}
}

// PushPolicy is [Service.PushPolicy].
func (c *API) PushPolicy(ctx context.Context, r PushRequest) (*Pushed, error) {
	return do[*Pushed](ctx, c, "policy.push", r)
}

// RollBackPolicy is [Service.RollBackPolicy].
func (c *API) RollBackPolicy(ctx context.Context, revision string) (*Pushed, error) {
	return do[*Pushed](ctx, c, "policy.rollback", Name{revision})
}

// PromotePolicy is [Service.PromotePolicy].
func (c *API) PromotePolicy(ctx context.Context) (*Pushed, error) {
	return do[*Pushed](ctx, c, "policy.promote", struct{}{})
}

// PolicyHistory is [Service.PolicyHistory].
func (c *API) PolicyHistory(ctx context.Context) ([]bundle.Entry, error) {
	return do[[]bundle.Entry](ctx, c, "policy.history", struct{}{})
}

// PolicyRevision is [Service.PolicyRevision].
func (c *API) PolicyRevision(ctx context.Context, revision string) (*Revision, error) {
	return do[*Revision](ctx, c, "policy.revision", Name{revision})
}

// PolicyState is [Service.PolicyState].
func (c *API) PolicyState(ctx context.Context) (*PolicyStatus, error) {
	return do[*PolicyStatus](ctx, c, "policy.status", struct{}{})
}
