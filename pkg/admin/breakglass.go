package admin

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// GrantRequest asks for a step of an emergency grant, with what the operator who
// wants it has signed: a breakglass.Statement for that step.
type GrantRequest struct {
	ID        string `json:"id"`
	Statement string `json:"statement"`
}

// GrantsRequest asks for the grants that are not done with, or for all there ever
// were.
type GrantsRequest struct {
	All bool `json:"all,omitempty"`
}

// A Grant is an emergency grant and what it is now.
type Grant struct {
	breakglass.Grant
	State       breakglass.State `json:"state"`
	NeedsReview bool             `json:"needs_review,omitempty"`
	// Covered is how many devices in service it names, while it is pending or active.
	Covered int `json:"covered,omitempty"`
}

// errStatement is wrapped by every error of a statement that nobody signed who may
// have.
var errStatement = errors.New("signature")

// grant describes a grant.
func (s *Service) grant(g *breakglass.Grant) *Grant {
	now := s.cfg.Clock()
	out := &Grant{Grant: *g, State: g.State(now), NeedsReview: g.NeedsReview(now)}
	if out.State == breakglass.Pending || out.State == breakglass.Active {
		out.Covered = len(s.covered(&g.Terms))
	}
	return out
}

// covered returns the devices in service that terms name.
func (s *Service) covered(t *breakglass.Terms) []*device.Record {
	f := device.Filter{Class: t.Class, Location: t.Location, Status: device.Active}
	return slices.DeleteFunc(s.cfg.State.Devices.List(f), func(r *device.Record) bool { return !t.Names(r) })
}

// A said is a statement and who made it.
type said struct {
	*breakglass.Statement
	by  Operator
	key crypto.PublicKey
}

// signed returns what an operator signed for a step, and who that is: somebody who
// is an operator now and has signed it for this grant just now.
func (s *Service) signed(ctx context.Context, purpose string, req *GrantRequest) (*said, error) {
	st, cert, err := breakglass.ReadStatement(purpose, req.Statement)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStatement, err)
	}
	op, err := s.signer(ctx, cert)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStatement, err)
	}
	age := s.cfg.Clock().Sub(st.At)
	switch {
	case st.TrustDomain != s.cfg.State.Config().TrustDomain:
		return nil, fmt.Errorf("%w: made for the trust domain %.40q", errStatement, st.TrustDomain)
	case st.Operator != op.Name:
		return nil, fmt.Errorf("%w: made by %s, and says another operator", errStatement, op.Name)
	case st.Grant != req.ID:
		return nil, fmt.Errorf("%w: made for another grant", errStatement)
	case age > breakglass.Fresh || age < -breakglass.Fresh:
		return nil, fmt.Errorf("%w: made at %s, which is not now", errStatement, st.At.Format(time.RFC3339))
	}
	return &said{st, op, cert.PublicKey}, nil
}

// needs reports an error if whoever signed has none of the roles.
func (st *said) needs(roles ...Role) error {
	if (Actor{Roles: st.by.Roles}).may(roles...) {
		return nil
	}
	return fmt.Errorf("%w: this needs an operator with one of the roles %v, and %s has %v", errForbidden, roles, st.by.Name, st.by.Roles)
}

// OpenGrant keeps a signed request for an emergency grant, which a second operator
// approves. Where the configuration permits it a security officer opens one alone:
// who signs when it is to end asks for that.
func (s *Service) OpenGrant(ctx context.Context, a Actor, req *GrantRequest) (*Grant, error) {
	st, err := s.signed(ctx, breakglass.ToOpen, req)
	if err != nil {
		return nil, err
	}
	if err := st.needs(Enroller, SecurityOfficer); err != nil {
		return nil, err
	}
	if st.Terms == nil || st.Opening != "" || st.Finding != "" {
		return nil, fmt.Errorf("%w grant: the request has no terms, or more than terms", breakglass.ErrInvalid)
	}
	if err := st.Terms.Check(); err != nil {
		return nil, err
	}
	if err := s.permits(st.Terms); err != nil {
		return nil, err
	}
	now := s.cfg.Clock().UTC().Truncate(time.Second)
	g := &breakglass.Grant{ID: st.Grant, Terms: *st.Terms, OpenedBy: st.by.Name, OpenedAt: now, Opening: req.Statement}
	event := "break-glass.requested"
	if !st.Until.IsZero() {
		if cfg := s.cfg.State.Config(); cfg.BreakGlass.TwoPersons {
			return nil, fmt.Errorf("%w: nobody opens a grant alone here (break_glass.two_persons in %s); leave --alone out and have a second operator approve it", errForbidden, cfg.Path)
		}
		if !slices.Contains(st.by.Roles, SecurityOfficer) {
			return nil, fmt.Errorf("%w: opening a grant alone needs the role %s, and %s has %v", errForbidden, SecurityOfficer, st.by.Name, st.by.Roles)
		}
		g.Alone, g.ApprovedBy, g.ApprovedAt, g.Until = true, st.by.Name, now, st.Until
		event = "break-glass.opened"
	}
	if err := s.cfg.State.BreakGlass.Add(ctx, g); err != nil {
		return nil, err
	}
	return s.widened(ctx, a, event, g)
}

// permits reports why there can be no grant of such terms here and now.
func (s *Service) permits(t *breakglass.Terms) error {
	cfg := s.cfg.State.Config()
	if limit := cfg.BreakGlass.MaxTime.D(); t.Time > limit {
		return fmt.Errorf("%w grant: %v is too long, at most %v is allowed (break_glass.max_time)", breakglass.ErrInvalid, t.Time, limit)
	}
	for _, id := range t.Devices {
		rec, ok := s.cfg.State.Devices.Get(id)
		switch {
		case !ok:
			return fmt.Errorf("%s: %w", id, device.ErrNotFound)
		case rec.Status != device.Active:
			return fmt.Errorf("%w: %s is %s, which no emergency overrides", breakglass.ErrState, id, rec.Status)
		}
	}
	var routes []string
	for i := range cfg.Routes {
		routes = append(routes, cfg.Routes[i].Name)
	}
	for _, name := range t.Routes {
		if !slices.Contains(routes, name) {
			return fmt.Errorf("%w grant: there is no route %q%s", breakglass.ErrInvalid, name, didYouMean(name, routes))
		}
	}
	if len(s.covered(t)) == 0 {
		var near string
		if t.Class != "" && s.cfg.Classes != nil {
			near = didYouMean(t.Class, s.cfg.Classes())
		}
		return fmt.Errorf("%w grant: it covers no device that is in service%s", breakglass.ErrInvalid, near)
	}
	return nil
}

func didYouMean(name string, known []string) string {
	if near := config.Nearest(name, known); near != "" && near != name {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// ApproveGrant puts a requested grant in force, by the word of a second operator.
func (s *Service) ApproveGrant(ctx context.Context, a Actor, req *GrantRequest) (*Grant, error) {
	st, err := s.signed(ctx, breakglass.ToApprove, req)
	if err != nil {
		return nil, err
	}
	g, err := s.second(ctx, st)
	if err != nil {
		return nil, err
	}
	if err := st.needs(SecurityOfficer); err != nil {
		return nil, err
	}
	first, err := s.operator(ctx, g.OpenedBy)
	if err != nil {
		return nil, err
	}
	if !first.RevokedAt.IsZero() {
		return nil, fmt.Errorf("%w: %s, who asked for %s, is revoked since", breakglass.ErrState, g.OpenedBy, g.ID)
	}
	if err := s.permits(&g.Terms); err != nil {
		return nil, err
	}
	if g, err = s.cfg.State.BreakGlass.Approve(ctx, g.ID, st.by.Name, st.Until, req.Statement); err != nil {
		return nil, err
	}
	return s.widened(ctx, a, "break-glass.opened", g)
}

// second returns the grant that a statement is about, if whoever signed it is
// another person than the one who opened it, and meant these very terms.
func (s *Service) second(ctx context.Context, st *said) (*breakglass.Grant, error) {
	g, err := s.cfg.State.BreakGlass.Get(ctx, st.Grant)
	if err != nil {
		return nil, err
	}
	_, first, err := breakglass.ReadStatement(breakglass.ToOpen, g.Opening)
	if err != nil {
		return nil, fmt.Errorf("%w: the request for %s: %w", errStatement, g.ID, err)
	}
	// Two names with one key are one person.
	same, _ := first.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case st.by.Name == g.OpenedBy:
		return nil, fmt.Errorf("%w: %s asked for %s, and the second person must be another", errForbidden, st.by.Name, g.ID)
	case same == nil || same.Equal(st.key):
		return nil, fmt.Errorf("%w: %s has the key of %s, who asked for %s; the second person must be another", errForbidden, st.by.Name, g.OpenedBy, g.ID)
	case st.Opening != breakglass.Digest(g.Opening) || st.Terms != nil:
		return nil, fmt.Errorf("%w: made for other terms than those of %s", errStatement, g.ID)
	}
	return g, nil
}

// widened records what lets somebody do more. What is in force and can not be
// recorded is taken out of force again.
func (s *Service) widened(ctx context.Context, a Actor, event string, g *breakglass.Grant) (*Grant, error) {
	active := g.ActiveAt(s.cfg.Clock())
	switch {
	case s.cfg.Live == nil: // the gateway says so when it starts
	case active:
		s.cfg.Logger.Warn("BREAK-GLASS is open", "grant", g.ID, "covers", g.Terms.String(), "until", g.Until.Format(time.RFC3339),
			"opened_by", g.OpenedBy, "approved_by", g.ApprovedBy)
	default:
		s.cfg.Logger.Warn("break-glass is asked for", "grant", g.ID, "covers", g.Terms.String(), "opened_by", g.OpenedBy)
	}
	err := s.commit(ctx, a, event, nil, grantFields(g)...)
	if err != nil {
		if _, eerr := s.cfg.State.BreakGlass.End(ctx, g.ID, "the gateway, because it could not be recorded"); eerr != nil {
			err = errors.Join(err, eerr)
		}
		s.recheck()
		return nil, fmt.Errorf("%s was withdrawn, because it could not be recorded: %w", g.ID, err)
	}
	if active {
		s.recheck()
	}
	return s.grant(g), nil
}

// CloseGrant ends a grant, or withdraws the request for one. When it returns no
// session works under it any more.
func (s *Service) CloseGrant(ctx context.Context, a Actor, req *Name) (*Grant, error) {
	g, err := s.cfg.State.BreakGlass.End(ctx, req.ID, a.Name)
	if errors.Is(err, breakglass.ErrState) || errors.Is(err, breakglass.ErrNotFound) {
		return nil, err
	}
	s.recheck()
	if err != nil {
		return nil, fmt.Errorf("%s is out of force in this process, but that could not be kept: %w; run the command again", req.ID, err)
	}
	event := "break-glass.closed"
	if g.ApprovedAt.IsZero() {
		event = "break-glass.withdrawn"
	}
	if s.cfg.Live != nil {
		s.cfg.Logger.Warn("break-glass is closed", "grant", g.ID, "by", a.Name)
	}
	return s.grant(g), s.commit(ctx, a, event, nil, grantFields(g)...)
}

// ReviewGrant keeps what another person than the one who opened it found when
// looking back at a grant.
func (s *Service) ReviewGrant(ctx context.Context, a Actor, req *GrantRequest) (*Grant, error) {
	st, err := s.signed(ctx, breakglass.ToReview, req)
	if err != nil {
		return nil, err
	}
	if _, err := s.second(ctx, st); err != nil {
		return nil, err
	}
	if err := st.needs(SecurityOfficer, Auditor); err != nil {
		return nil, err
	}
	g, err := s.cfg.State.BreakGlass.Review(ctx, st.Grant, st.by.Name, st.Finding, req.Statement)
	if err != nil {
		return nil, err
	}
	return s.grant(g), s.commit(ctx, a, "break-glass.reviewed", nil, grantFields(g)...)
}

// Grants returns emergency grants, the oldest first.
func (s *Service) Grants(ctx context.Context, _ Actor, req *GrantsRequest) ([]Grant, error) {
	gs, err := s.cfg.State.BreakGlass.List(ctx, req.All)
	out := []Grant{}
	for _, g := range gs {
		if d := s.grant(g); req.All || d.NeedsReview || d.State == breakglass.Pending || d.State == breakglass.Active {
			out = append(out, *d)
		}
	}
	return out, err
}

// EndGrants records the grants that are over by themselves. The gateway calls it
// when one may be; they are out of force without it.
func (s *Service) EndGrants(ctx context.Context) error {
	due, err := s.cfg.State.BreakGlass.Due(ctx)
	if len(due) > 0 || err != nil {
		s.recheck()
	}
	for _, g := range due {
		event := "break-glass.expired"
		if g.ApprovedAt.IsZero() {
			event = "break-glass.lapsed"
		}
		s.cfg.Logger.Warn("break-glass is over", "grant", g.ID, "covers", g.Terms.String(), "event", event)
		err = errors.Join(err, s.commit(ctx, Actor{}, event, nil, grantFields(g)...))
	}
	return err
}

func grantFields(g *breakglass.Grant) []protocol.Field {
	var out []protocol.Field
	text := func(name, v string) {
		if v != "" {
			out = append(out, protocol.Field{Name: name, Value: protocol.String(v)})
		}
	}
	moment := func(name string, t time.Time) {
		if !t.IsZero() {
			text(name, t.Format(time.RFC3339))
		}
	}
	list := func(name string, v []string) {
		if len(v) > 0 {
			out = append(out, protocol.Field{Name: name, Value: protocol.Strings(v...)})
		}
	}
	text("grant", g.ID)
	list("devices", g.Terms.Devices)
	text("class", g.Terms.Class)
	text("location", g.Terms.Location)
	list("routes", g.Terms.Routes)
	text("reason", g.Terms.Reason)
	text("time", g.Terms.Time.String())
	text("opened_by", g.OpenedBy)
	text("approved_by", g.ApprovedBy)
	moment("until", g.Until)
	text("ended_by", g.EndedBy)
	moment("ended_at", g.EndedAt)
	text("reviewed_by", g.ReviewedBy)
	text("finding", g.Finding)
	text("opening", breakglass.Digest(g.Opening))
	return out
}

// describeGrants adds what an operator must not overlook.
func (s *Service) describeGrants(ctx context.Context, out *Status) error {
	gs, err := s.Grants(ctx, Actor{}, &GrantsRequest{})
	out.BreakGlass = gs
	for i := range gs {
		g := &gs[i]
		text := ""
		switch {
		case g.State == breakglass.Active:
			text = fmt.Sprintf("BREAK-GLASS %s is open for %s until %s (opened by %s, approved by %s)", g.ID, &g.Terms, g.Until.Format(time.RFC3339), g.OpenedBy, g.ApprovedBy)
		case g.State == breakglass.Pending:
			text = fmt.Sprintf("break-glass %s for %s waits for a second operator: anteroom break-glass approve %s", g.ID, &g.Terms, g.ID)
		default:
			text = fmt.Sprintf("break-glass %s, %s at %s, was not reviewed: anteroom break-glass review %s", g.ID, g.State, g.ended().Format(time.RFC3339), g.ID)
		}
		out.Warnings = append(out.Warnings, text)
	}
	if !s.cfg.State.Config().BreakGlass.TwoPersons {
		out.Warnings = append(out.Warnings, "one operator alone may open break-glass (break_glass.two_persons: false)")
	}
	return err
}

// ended is when the grant was over.
func (g *Grant) ended() time.Time {
	if g.EndedAt.IsZero() {
		return g.Until
	}
	return g.EndedAt
}

// OpenGrant is [Service.OpenGrant].
func (c *API) OpenGrant(ctx context.Context, r GrantRequest) (*Grant, error) {
	return do[*Grant](ctx, c, "break-glass.open", r)
}

// ApproveGrant is [Service.ApproveGrant].
func (c *API) ApproveGrant(ctx context.Context, r GrantRequest) (*Grant, error) {
	return do[*Grant](ctx, c, "break-glass.approve", r)
}

// CloseGrant is [Service.CloseGrant].
func (c *API) CloseGrant(ctx context.Context, id string) (*Grant, error) {
	return do[*Grant](ctx, c, "break-glass.close", Name{id})
}

// ReviewGrant is [Service.ReviewGrant].
func (c *API) ReviewGrant(ctx context.Context, r GrantRequest) (*Grant, error) {
	return do[*Grant](ctx, c, "break-glass.review", r)
}

// Grants is [Service.Grants].
func (c *API) Grants(ctx context.Context, r GrantsRequest) ([]Grant, error) {
	return do[[]Grant](ctx, c, "break-glass.list", r)
}
