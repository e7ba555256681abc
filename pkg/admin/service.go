package admin

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/finding"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Live is what only a running gateway knows. Without one there is none.
type Live interface {
	Sessions() []SessionInfo
	KillSession(id string) bool
	// Describe fills in what a running gateway knows of itself.
	Describe(*Status)
	Reload(ctx context.Context) error
	// Recheck decides anew on what sessions hold.
	Recheck()
	// TrustChanged has handshakes verified against what the CA trusts now.
	TrustChanged()
	// Clock returns how a device's clock was when it was last heard of.
	Clock(id string) *ClockReading
}

// Config is what a [Service] is made from.
type Config struct {
	State  *State
	Live   Live // nil when no gateway runs
	Clock  func() time.Time
	Logger *slog.Logger
	// Classes returns the classes the policy set knows, or nil if it is not
	// known. An enrolment into another class is warned of.
	Classes func() []string
	// Engine decides in a running gateway; nil when none runs.
	Engine *policy.Engine
	// Enrolled is called with every answer to a request for a device's certificate.
	Enrolled func(way enrol.Way, result string)
	// Version is the program's, for backups.
	Version string
	// TrialFailed is called when a trial of a revision is over by itself. It must
	// not block.
	TrialFailed func()
}

// A Service does what operators ask for. It is safe for concurrent use.
type Service struct {
	cfg       Config
	registrar *enrol.Registrar
	policies  sync.Mutex // one change of what is in force at a time
	backing   sync.Mutex // one backup at a time
}

// NewService returns a service.
func NewService(cfg Config) *Service {
	s := &Service{cfg: cfg}
	st := cfg.State
	s.registrar = enrol.New(enrol.Config{Devices: st.Devices, CA: st.CA, Audit: st.Audit, Tokens: st.Tokens, Newcomers: st.Newcomers,
		Policy: s.policySet, Settings: st.Config, Clock: cfg.Clock, Logger: cfg.Logger, Observe: cfg.Enrolled})
	return s
}

// Registrar returns what gives devices their certificates, for other ways in.
func (s *Service) Registrar() *enrol.Registrar { return s.registrar }

// policySet returns the policy set that is asked about enrolments: the one in
// force, or the one that would be if a gateway ran.
func (s *Service) policySet(ctx context.Context) (*policy.Set, error) {
	if s.cfg.Engine != nil {
		return s.cfg.Engine.Current(), nil
	}
	return s.cfg.State.policySet(ctx)
}

// mostExpiring is how many devices a status page names.
const mostExpiring = 5

// clockSkew is how far ahead the clock of whoever assessed a device may be.
const clockSkew = 5 * time.Minute

func (s *Service) issued(rec *device.Record, iss *enrol.Issued) *Issued {
	leaf := iss.Chain[0]
	return &Issued{
		Device: rec, ChainPEM: iss.ChainPEM, RootsPEM: s.cfg.State.CA.RootsPEM(),
		Serial: leaf.SerialNumber.String(), NotAfter: leaf.NotAfter.UTC(), CutShort: iss.CutShort,
	}
}

// Enroll registers a device and has its first certificate issued.
func (s *Service) Enroll(ctx context.Context, a Actor, req *EnrollRequest) (*Issued, error) {
	in := req.Device
	iss, err := s.registrar.Enrol(ctx, &enrol.Request{
		Way: enrol.CLI, ID: in.ID, CSR: req.CSR, Proof: enrol.Operator{Person: a.Name}, TTL: req.TTL, Again: req.Again, New: facts(&in),
	})
	if err != nil {
		return nil, err
	}
	out := s.issued(iss.Device, iss)
	out.Warnings = s.unknownClass(in.Class)
	return out, nil
}

// facts returns of a record what an operator says of a device.
func facts(in *device.Record) *device.Record {
	return &device.Record{
		ID: in.ID, Class: in.Class, Manufacturer: in.Manufacturer, Model: in.Model, Serial: in.Serial, UDI: in.UDI,
		Location: in.Location, Owner: in.Owner, Tags: in.Tags, LifeCritical: in.LifeCritical, Posture: in.Posture,
	}
}

// unknownClass warns of a class that no policy knows.
func (s *Service) unknownClass(class string) []string {
	if s.cfg.Classes == nil {
		return nil
	}
	known := s.cfg.Classes()
	if len(known) == 0 || slices.Contains(known, class) {
		return nil
	}
	text := fmt.Sprintf("no policy knows the class %q, so everything the device asks for will be denied", class)
	if near := config.Nearest(class, known); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	return []string{text}
}

// Renew has a further certificate issued. The former ones stay valid until they
// end, so that a device can change over when it is ready.
func (s *Service) Renew(ctx context.Context, a Actor, req *RenewRequest) (*Issued, error) {
	iss, err := s.registrar.Enrol(ctx, &enrol.Request{
		Way: enrol.CLI, ID: req.ID, CSR: req.CSR, Proof: enrol.Operator{Person: a.Name}, TTL: req.TTL,
	})
	if err != nil {
		return nil, err
	}
	return s.issued(iss.Device, iss), nil
}

// events are the names of status changes in the audit log.
var events = map[device.Status]string{
	device.Active: "device.released", device.Quarantined: "device.quarantined", device.Revoked: "device.revoked", device.Retired: "device.retired",
}

// SetStatus moves a device to another status. When it returns, every session
// the new status does not permit has been ended. Withdrawing is done in the
// registry first, where it takes effect at once, and then told to the CA. Only a
// security officer lets a device in again.
func (s *Service) SetStatus(ctx context.Context, a Actor, req *StatusRequest) (*device.Record, error) {
	event, ok := events[req.To]
	if !ok {
		return nil, fmt.Errorf("%w status %q", device.ErrInvalid, req.To)
	}
	if req.To == device.Active && !a.may(SecurityOfficer) {
		return nil, fmt.Errorf("%w: releasing a device needs the role %s, and %s has %v", errForbidden, SecurityOfficer, a.Name, a.Roles)
	}
	if old, ok := s.cfg.State.Devices.Get(req.ID); ok && req.To == device.Active && old.Status == device.Pending && len(old.Certificates) == 0 {
		return nil, fmt.Errorf("%s: %w: it has no certificate; device enroll gives it one", req.ID, device.ErrTransition)
	}
	rec, err := s.cfg.State.Devices.SetStatus(ctx, req.ID, req.To, req.Reason)
	if err != nil {
		// What was cut off between registry, CA and record is completed when it
		// is asked for again; and who asks for what is so already has it.
		old, ok := s.cfg.State.Devices.Get(req.ID)
		if !ok || old.Status != req.To || !errors.Is(err, device.ErrTransition) {
			return nil, err
		}
		rec = old
	}
	if err := s.withdraw(ctx, rec, req.Reason); err != nil {
		return nil, err
	}
	return rec, s.commit(ctx, a, event, rec, protocol.Field{Name: "reason", Value: protocol.String(req.Reason)})
}

// withdraw tells who else has to know that a device is revoked or retired: its
// token is worth nothing any more, and the CA puts its certificates on the list.
func (s *Service) withdraw(ctx context.Context, rec *device.Record, reason string) error {
	if rec.Status != device.Revoked && rec.Status != device.Retired {
		return nil
	}
	if err := s.cfg.State.Tokens.Withdraw(ctx, rec.ID); err != nil {
		return fmt.Errorf("%s is %s, but %w; run the command again", rec.ID, rec.Status, err)
	}
	if _, err := s.cfg.State.Newcomers.Withdraw(ctx, rec.ID); err != nil {
		return fmt.Errorf("%s is %s, but %w; run the command again", rec.ID, rec.Status, err)
	}
	// What was found out is done with. It is over and not accepted: a copy of the next
	// key is news again.
	for _, k := range finding.Kinds() {
		if _, err := s.cfg.State.Findings.End(ctx, rec.ID, k); err != nil {
			return fmt.Errorf("%s is %s, but %w; run the command again", rec.ID, rec.Status, err)
		}
	}
	for _, c := range rec.Certificates {
		if err := s.cfg.State.CA.Revoke(ctx, c.Serial, cmp.Or(reason, string(rec.Status))); err != nil && !errors.Is(err, ca.ErrUnknownSerial) {
			return fmt.Errorf("%s is %s, but the CA does not know it: %w; run the command again", rec.ID, rec.Status, err)
		}
	}
	return nil
}

// SetPosture changes what is known of a device's health. What the request does
// not name stays as it is: a new firmware version is no statement about known
// vulnerabilities.
func (s *Service) SetPosture(ctx context.Context, a Actor, req *PostureRequest) (*device.Record, error) {
	if req.Firmware == nil && req.MaxCVSS == nil {
		return nil, fmt.Errorf("%w posture: nothing to record", device.ErrInvalid)
	}
	if req.AssessedAt.IsZero() || req.AssessedAt.After(s.cfg.Clock().Add(clockSkew)) {
		return nil, fmt.Errorf("%w posture: it was assessed at no time, or in the future", device.ErrInvalid)
	}
	rec, err := s.cfg.State.Devices.Update(ctx, req.ID, func(r *device.Record) error {
		if req.Firmware != nil {
			r.Posture.Firmware = *req.Firmware
		}
		if req.MaxCVSS != nil {
			r.Posture.MaxCVSS = *req.MaxCVSS
		}
		r.Posture.AssessedAt = req.AssessedAt.UTC()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rec, s.commit(ctx, a, "device.posture", rec,
		protocol.Field{Name: "firmware", Value: protocol.String(rec.Posture.Firmware)},
		protocol.Field{Name: "max_cvss", Value: protocol.String(fmt.Sprint(rec.Posture.MaxCVSS))})
}

// List returns devices in order of id.
func (s *Service) List(_ context.Context, _ Actor, req *ListRequest) ([]*device.Record, error) {
	f := device.Filter{Class: req.Class, Status: req.Status, Location: req.Location}
	if f.Status != "" && !f.Status.Known() {
		return nil, fmt.Errorf("%w status %q", device.ErrInvalid, f.Status)
	}
	if req.Expiring > 0 {
		f.ExpiresBefore = s.cfg.Clock().Add(req.Expiring)
	}
	return s.cfg.State.Devices.List(f), nil
}

// Show returns one device.
func (s *Service) Show(_ context.Context, _ Actor, req *Name) (*device.Record, error) {
	rec, ok := s.cfg.State.Devices.Get(req.ID)
	if !ok {
		return nil, fmt.Errorf("%s: %w", req.ID, device.ErrNotFound)
	}
	return rec, nil
}

// Sessions returns the live sessions, oldest first.
func (s *Service) Sessions(context.Context, Actor, *struct{}) ([]SessionInfo, error) {
	if s.cfg.Live == nil {
		return nil, errNotRunning
	}
	return s.cfg.Live.Sessions(), nil
}

// errNotRunning says that only a running gateway knows.
var errNotRunning = errors.New("no gateway is running")

// noSession is [device.ErrNotFound] in the words of sessions.
type noSession string

func (n noSession) Error() string {
	return string(n) + ": no such session; session list shows those there are"
}
func (noSession) Is(target error) bool { return target == device.ErrNotFound }

// KillSession ends a session.
func (s *Service) KillSession(ctx context.Context, a Actor, req *Name) (*Name, error) {
	if s.cfg.Live == nil {
		return nil, errNotRunning
	}
	if !s.cfg.Live.KillSession(req.ID) {
		return nil, noSession(req.ID)
	}
	return req, s.commit(ctx, a, "session.killed", nil, protocol.Field{Name: "session", Value: protocol.String(req.ID)})
}

// Reload has the gateway read its configuration and policies again.
func (s *Service) Reload(ctx context.Context, a Actor, req *struct{}) (*struct{}, error) {
	if s.cfg.Live == nil {
		return nil, errNotRunning
	}
	if err := s.cfg.Live.Reload(ctx); err != nil {
		return nil, err
	}
	return req, s.commit(ctx, a, "config.reload", nil)
}

// intermediateNotice is how long before the end of the issuing certificate it is a
// problem: a rotation wants a person with the root's key, which is in a safe.
const intermediateNotice = 30 * 24 * time.Hour

// Status says how the gateway is.
func (s *Service) Status(ctx context.Context, _ Actor, _ *struct{}) (*Status, error) {
	st := s.cfg.State
	cfg := st.Config()
	out := &Status{TrustDomain: cfg.TrustDomain, Devices: st.Devices.Counts(), Audit: st.Audit.Status(),
		Policy: PolicyStatus{Dir: cfg.Policy.Enforce}}
	s.describePolicy(&out.Policy)
	for _, c := range slices.Concat(st.CA.Intermediates(), st.CA.Roots()) {
		out.CA = append(out.CA, CertificateStatus{Name: c.Subject.CommonName, NotAfter: c.NotAfter})
	}
	if c := st.CA.Intermediates()[0]; c.NotAfter.Before(s.cfg.Clock().Add(intermediateNotice)) {
		out.Problems = append(out.Problems, fmt.Sprintf("%s, which issues, ends at %s: ca rotate makes another", c.Subject.CommonName, c.NotAfter.UTC().Format(time.RFC3339)))
	}
	if out.Restored = st.Restored(); out.Restored != nil {
		out.Warnings = append(out.Warnings, out.Restored.Warning())
	}
	s.describeExpiry(out)
	s.describeFindings(out)
	if s.cfg.Live != nil {
		s.cfg.Live.Describe(out)
	}
	return out, s.describeGrants(ctx, out)
}

// RevocationList returns the list of revoked certificates that is in force: that
// of the issuing intermediate, or of the one that the request names.
func (s *Service) RevocationList(ctx context.Context, _ Actor, req *ListOf) (*RevocationList, error) {
	all := s.cfg.State.CA.Intermediates()
	i := 0
	if req.Issuer != "" {
		if i = slices.IndexFunc(all, func(c *x509.Certificate) bool { return strings.EqualFold(ca.ListName(c), req.Issuer) }); i < 0 {
			return nil, fmt.Errorf("an intermediate whose name ends with %.20q: %w", req.Issuer, device.ErrNotFound)
		}
	}
	l, err := s.cfg.State.Revocations.List(ctx, all[i])
	if err != nil {
		return nil, err
	}
	return &RevocationList{Issuer: all[i].Subject.CommonName, Number: l.Number, Entries: l.Entries, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate, PEM: string(l.PEM())}, nil
}

// Authority returns the CA's certificates, issuing ones first.
func (s *Service) Authority(context.Context, Actor, *struct{}) ([]AuthorityCertificate, error) {
	var out []AuthorityCertificate
	add := func(root bool, certs []*x509.Certificate) {
		for _, c := range certs {
			out = append(out, *authorityCertificate(c, root))
		}
	}
	add(false, s.cfg.State.CA.Intermediates())
	add(true, s.cfg.State.CA.Roots())
	return out, nil
}
