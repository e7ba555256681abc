package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
)

// Codes of errors, the same on both sides of the socket.
const (
	CodeNotFound   = "not-found"
	CodeExists     = "exists"
	CodeInvalid    = "invalid"
	CodeConflict   = "conflict"
	CodeForbidden  = "forbidden"
	CodeNotRunning = "not-running"
	CodeInternal   = "internal"
)

// An Error is an operation's error as it comes through the socket.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// codeOf finds the code of an error.
func codeOf(err error) string {
	switch {
	case errors.Is(err, device.ErrNotFound):
		return CodeNotFound
	case errors.Is(err, device.ErrExists), errors.Is(err, device.ErrTaken):
		return CodeExists
	case errors.Is(err, device.ErrInvalid):
		return CodeInvalid
	case errors.Is(err, bundle.ErrNoRevision):
		return CodeNotFound
	case errors.Is(err, bundle.ErrSignature):
		return CodeInvalid
	case errors.Is(err, device.ErrTransition), errors.As(err, new(bundle.Conflict)):
		return CodeConflict
	case errors.Is(err, breakglass.ErrNotFound):
		return CodeNotFound
	case errors.Is(err, breakglass.ErrInvalid), errors.Is(err, errStatement):
		return CodeInvalid
	case errors.Is(err, breakglass.ErrState):
		return CodeConflict
	case errors.Is(err, ca.ErrRotation):
		return CodeInvalid
	case errors.Is(err, errForbidden):
		return CodeForbidden
	case errors.Is(err, errNotRunning):
		return CodeNotRunning
	}
	if r, ok := errors.AsType[*enrol.Refusal](err); ok && r.Code != enrol.Busy {
		return CodeConflict // it is about this one device: its quota, what policies say
	}
	return CodeInternal
}

// errForbidden says that the actor lacks the role.
var errForbidden = errors.New("not allowed")

// An operation is one entry of the API: who may do it, and what it does with
// arguments and result as JSON.
type operation struct {
	roles []Role
	do    func(ctx context.Context, s *Service, a Actor, name string, arg []byte) (any, error)
}

// look makes an operation of a method that changes nothing.
func look[Req, Resp any](f func(*Service, context.Context, Actor, *Req) (Resp, error), roles ...Role) operation {
	return operation{roles, func(ctx context.Context, s *Service, a Actor, _ string, arg []byte) (any, error) {
		req, err := decode[Req](arg)
		if err != nil {
			return nil, err
		}
		return f(s, ctx, a, req)
	}}
}

// change makes an operation of a method that changes something: who asked for it
// is recorded before it is done, and so is that it failed.
func change[Req, Resp any](f func(*Service, context.Context, Actor, *Req) (Resp, error), roles ...Role) operation {
	return operation{roles, func(ctx context.Context, s *Service, a Actor, name string, arg []byte) (any, error) {
		req, err := decode[Req](arg)
		if err != nil {
			return nil, err
		}
		if err := s.announce(ctx, a, name, req); err != nil {
			return nil, err
		}
		// What was begun is finished, even if who asked has gone away.
		ctx = context.WithoutCancel(ctx)
		out, err := f(s, ctx, a, req)
		if err != nil {
			s.failed(ctx, a, name, req, err)
			return nil, err
		}
		return out, nil
	}}
}

func decode[Req any](arg []byte) (*Req, error) {
	req := new(Req)
	if len(arg) > 0 {
		if err := json.Unmarshal(arg, req); err != nil {
			return nil, fmt.Errorf("%w arguments: %w", device.ErrInvalid, err)
		}
	}
	return req, nil
}

// operations returns everything operators can do, and who may.
func operations() map[string]operation {
	all := AllRoles
	return map[string]operation{
		"device.enroll":       change((*Service).Enroll, Enroller),
		"device.renew":        change((*Service).Renew, Enroller),
		"device.status":       change((*Service).SetStatus, Enroller, SecurityOfficer),
		"certificate.revoke":  change((*Service).RevokeCertificate, Enroller, SecurityOfficer),
		"device.posture":      change((*Service).SetPosture, Enroller, SecurityOfficer),
		"device.replace":      change((*Service).Replace, Enroller),
		"device.lend":         change((*Service).Lend, Enroller),
		"device.return":       change((*Service).Return, Enroller, SecurityOfficer),
		"device.decommission": change((*Service).Decommission, Enroller, SecurityOfficer),
		"device.associate":    change((*Service).Associate, atBedside...),
		"device.dissociate":   change((*Service).Dissociate, atBedside...),
		"device.patients":     look((*Service).Patients, all...),
		"device.token":        change((*Service).Token, Enroller),
		"device.approve":      change((*Service).Approve, Enroller),
		"device.waiting":      look((*Service).Waiting, all...),
		"device.import":       change((*Service).Import, Enroller),
		"device.import.check": look((*Service).CheckImport, all...),
		"token.list":          look((*Service).Tokens, all...),
		"token.revoke":        change((*Service).RevokeToken, Enroller, SecurityOfficer),
		"device.list":         look((*Service).List, all...),
		"device.findings":     look((*Service).Findings, all...),
		"device.accept":       change((*Service).Accept, Enroller, SecurityOfficer),
		"device.show":         look((*Service).Show, all...),
		"session.list":        look((*Service).Sessions, all...),
		"session.kill":        change((*Service).KillSession, SecurityOfficer),
		"operator.add":        change((*Service).AddOperator, SecurityOfficer),
		"operator.list":       look((*Service).Operators, all...),
		"operator.revoke":     change((*Service).RevokeOperator, SecurityOfficer),
		"reload":              change((*Service).Reload, PolicyAuthor, SecurityOfficer),
		"policy.push":         change((*Service).PushPolicy, PolicyAuthor),
		"policy.rollback":     change((*Service).RollBackPolicy, PolicyAuthor),
		"policy.promote":      change((*Service).PromotePolicy, PolicyAuthor),
		"policy.history":      look((*Service).PolicyHistory, all...),
		"policy.revision":     look((*Service).PolicyRevision, all...),
		"policy.status":       look((*Service).PolicyState, all...),
		"ca.show":             look((*Service).Authority, all...),
		"ca.verify":           look((*Service).VerifyAuthority, all...),
		"ca.crl":              look((*Service).RevocationList, all...),
		"status":              look((*Service).Status, all...),
		"ca.rotate.prepare":   change((*Service).PrepareRotation, SecurityOfficer),
		"ca.rotate":           change((*Service).Rotate, SecurityOfficer),
		"ca.root.add":         change((*Service).AddRoot, SecurityOfficer),
		"ca.root.remove":      change((*Service).RemoveRoot, SecurityOfficer),
		"restore.acknowledge": change((*Service).AcknowledgeRestore, SecurityOfficer),

		"break-glass.open":    change((*Service).OpenGrant, Enroller, SecurityOfficer),
		"break-glass.approve": change((*Service).ApproveGrant, SecurityOfficer),
		"break-glass.close":   change((*Service).CloseGrant, Enroller, SecurityOfficer),
		"break-glass.review":  change((*Service).ReviewGrant, SecurityOfficer, Auditor),
		"break-glass.list":    look((*Service).Grants, all...),
	}
}

// Do does an operation for an actor.
func (s *Service) Do(ctx context.Context, a Actor, name string, arg []byte) (any, error) {
	o, ok := operations()[name]
	if !ok {
		return nil, fmt.Errorf("%w operation %q", device.ErrInvalid, name)
	}
	if !a.may(o.roles...) {
		return nil, fmt.Errorf("%w: %s needs one of the roles %v, and %s has %v", errForbidden, name, o.roles, a.Name, a.Roles)
	}
	return o.do(ctx, s, a, name, arg)
}

// A caller carries a call to a service, near or far.
type caller interface {
	call(ctx context.Context, name string, arg, result any) error
	// stream is a call that writes to w before it has a result.
	stream(ctx context.Context, name string, arg any, w io.Writer, result any) error
	Close() error
}

// An API is a service as commands use it.
type API struct{ caller }

// Local returns the API of a state directory that this process has opened; Close
// closes it.
func Local(s *Service, a Actor) *API { return &API{&local{s, a}} }

type local struct {
	s *Service
	a Actor
}

func (l *local) call(ctx context.Context, name string, arg, result any) error {
	b, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	out, err := l.s.Do(ctx, l.a, name, b)
	if err != nil {
		return &Error{codeOf(err), err.Error()}
	}
	if b, err = json.Marshal(out); err != nil {
		return err
	}
	return json.Unmarshal(b, result)
}

func (l *local) stream(ctx context.Context, name string, arg any, w io.Writer, result any) error {
	b, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	out, err := l.s.Stream(ctx, l.a, name, b, w)
	if err != nil {
		return &Error{codeOf(err), err.Error()}
	}
	if b, err = json.Marshal(out); err != nil {
		return err
	}
	return json.Unmarshal(b, result)
}

func (l *local) Close() error { return l.s.cfg.State.Close() }

// do is a call with a typed result.
func do[Resp any](ctx context.Context, c caller, name string, arg any) (Resp, error) {
	var out Resp
	err := c.call(ctx, name, arg, &out)
	return out, err
}

// Enroll is [Service.Enroll].
func (c *API) Enroll(ctx context.Context, r EnrollRequest) (*Issued, error) {
	return do[*Issued](ctx, c, "device.enroll", r)
}

// Renew is [Service.Renew].
func (c *API) Renew(ctx context.Context, r RenewRequest) (*Issued, error) {
	return do[*Issued](ctx, c, "device.renew", r)
}

// SetStatus is [Service.SetStatus].
func (c *API) SetStatus(ctx context.Context, r StatusRequest) (*device.Record, error) {
	return do[*device.Record](ctx, c, "device.status", r)
}

// RevokeCertificate is [Service.RevokeCertificate].
func (c *API) RevokeCertificate(ctx context.Context, r WithdrawRequest) (*RevokedCertificate, error) {
	return do[*RevokedCertificate](ctx, c, "certificate.revoke", r)
}

// Replace is [Service.Replace].
func (c *API) Replace(ctx context.Context, r ReplaceRequest) (*Replaced, error) {
	return do[*Replaced](ctx, c, "device.replace", r)
}

// Lend is [Service.Lend].
func (c *API) Lend(ctx context.Context, r LoanRequest) (*device.Record, error) {
	return do[*device.Record](ctx, c, "device.lend", r)
}

// Return is [Service.Return].
func (c *API) Return(ctx context.Context, id string) (*device.Record, error) {
	return do[*device.Record](ctx, c, "device.return", Name{id})
}

// Decommission is [Service.Decommission].
func (c *API) Decommission(ctx context.Context, r DecommissionRequest) (*device.Record, error) {
	return do[*device.Record](ctx, c, "device.decommission", r)
}

// Findings is [Service.Findings].
func (c *API) Findings(ctx context.Context, id string) (*Findings, error) {
	return do[*Findings](ctx, c, "device.findings", Name{id})
}

// Accept is [Service.Accept].
func (c *API) Accept(ctx context.Context, r AcceptRequest) (*Found, error) {
	return do[*Found](ctx, c, "device.accept", r)
}

// SetPosture is [Service.SetPosture].
func (c *API) SetPosture(ctx context.Context, r PostureRequest) (*device.Record, error) {
	return do[*device.Record](ctx, c, "device.posture", r)
}

// Token is [Service.Token].
func (c *API) Token(ctx context.Context, r TokenRequest) (*Token, error) {
	return do[*Token](ctx, c, "device.token", r)
}

// Approve is [Service.Approve].
func (c *API) Approve(ctx context.Context, r ApproveRequest) ([]Approval, error) {
	return do[[]Approval](ctx, c, "device.approve", r)
}

// Waiting is [Service.Waiting].
func (c *API) Waiting(ctx context.Context) ([]enrol.Newcomer, error) {
	return do[[]enrol.Newcomer](ctx, c, "device.waiting", struct{}{})
}

// Import is [Service.Import].
func (c *API) Import(ctx context.Context, r ImportRequest) ([]Imported, error) {
	return do[[]Imported](ctx, c, "device.import", r)
}

// CheckImport is [Service.CheckImport].
func (c *API) CheckImport(ctx context.Context, r ImportRequest) ([]Imported, error) {
	return do[[]Imported](ctx, c, "device.import.check", r)
}

// Tokens is [Service.Tokens].
func (c *API) Tokens(ctx context.Context) ([]TokenStatus, error) {
	return do[[]TokenStatus](ctx, c, "token.list", struct{}{})
}

// RevokeToken is [Service.RevokeToken].
func (c *API) RevokeToken(ctx context.Context, name string) error {
	_, err := do[*Name](ctx, c, "token.revoke", Name{name})
	return err
}

// List is [Service.List].
func (c *API) List(ctx context.Context, r ListRequest) ([]*device.Record, error) {
	return do[[]*device.Record](ctx, c, "device.list", r)
}

// Show is [Service.Show].
func (c *API) Show(ctx context.Context, id string) (*device.Record, error) {
	return do[*device.Record](ctx, c, "device.show", Name{id})
}

// Associate is [Service.Associate].
func (c *API) Associate(ctx context.Context, r AssociateRequest) ([]*Bedside, error) {
	return do[[]*Bedside](ctx, c, "device.associate", r)
}

// Dissociate is [Service.Dissociate].
func (c *API) Dissociate(ctx context.Context, r DissociateRequest) ([]*Bedside, error) {
	return do[[]*Bedside](ctx, c, "device.dissociate", r)
}

// Patients is [Service.Patients].
func (c *API) Patients(ctx context.Context, id string) (*Bedside, error) {
	return do[*Bedside](ctx, c, "device.patients", BedsideRequest{id})
}

// Sessions is [Service.Sessions].
func (c *API) Sessions(ctx context.Context) ([]SessionInfo, error) {
	return do[[]SessionInfo](ctx, c, "session.list", struct{}{})
}

// KillSession is [Service.KillSession].
func (c *API) KillSession(ctx context.Context, id string) error {
	_, err := do[*Name](ctx, c, "session.kill", Name{id})
	return err
}

// AddOperator is [Service.AddOperator].
func (c *API) AddOperator(ctx context.Context, r OperatorRequest) (*Issued, error) {
	return do[*Issued](ctx, c, "operator.add", r)
}

// Operators is [Service.Operators].
func (c *API) Operators(ctx context.Context) ([]Operator, error) {
	return do[[]Operator](ctx, c, "operator.list", struct{}{})
}

// RevokeOperator is [Service.RevokeOperator].
func (c *API) RevokeOperator(ctx context.Context, name string) (*Operator, error) {
	return do[*Operator](ctx, c, "operator.revoke", Name{name})
}

// Reload is [Service.Reload].
func (c *API) Reload(ctx context.Context) error {
	_, err := do[*struct{}](ctx, c, "reload", struct{}{})
	return err
}

// RevocationList returns the list of revoked certificates that is in force.
func (c *API) RevocationList(ctx context.Context, r ListOf) (*RevocationList, error) {
	return do[*RevocationList](ctx, c, "ca.crl", r)
}

// PrepareRotation is [Service.PrepareRotation].
func (c *API) PrepareRotation(ctx context.Context) (*PreparedRotation, error) {
	return do[*PreparedRotation](ctx, c, "ca.rotate.prepare", struct{}{})
}

// Rotate is [Service.Rotate].
func (c *API) Rotate(ctx context.Context, r CertificateRequest) (*AuthorityCertificate, error) {
	return do[*AuthorityCertificate](ctx, c, "ca.rotate", r)
}

// AddRoot is [Service.AddRoot].
func (c *API) AddRoot(ctx context.Context, r CertificateRequest) (*AuthorityCertificate, error) {
	return do[*AuthorityCertificate](ctx, c, "ca.root.add", r)
}

// RemoveRoot is [Service.RemoveRoot].
func (c *API) RemoveRoot(ctx context.Context, fingerprint string) (*AuthorityCertificate, error) {
	return do[*AuthorityCertificate](ctx, c, "ca.root.remove", Name{fingerprint})
}

// VerifyAuthority is [Service.VerifyAuthority].
func (c *API) VerifyAuthority(ctx context.Context, r VerifyRequest) ([]ca.Finding, error) {
	return do[[]ca.Finding](ctx, c, "ca.verify", r)
}

// Authority is [Service.Authority].
func (c *API) Authority(ctx context.Context) ([]AuthorityCertificate, error) {
	return do[[]AuthorityCertificate](ctx, c, "ca.show", struct{}{})
}

// Status is [Service.Status].
func (c *API) Status(ctx context.Context) (*Status, error) {
	return do[*Status](ctx, c, "status", struct{}{})
}

// Backup is [Service.Backup].
func (c *API) Backup(ctx context.Context, r BackupRequest, w io.Writer) (*Backup, error) {
	var out *Backup
	err := c.stream(ctx, "backup", r, w, &out)
	return out, err
}

// AcknowledgeRestore is [Service.AcknowledgeRestore].
func (c *API) AcknowledgeRestore(ctx context.Context) (*Restored, error) {
	return do[*Restored](ctx, c, "restore.acknowledge", struct{}{})
}
