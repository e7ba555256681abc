package enrol

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// Config is what a [Registrar] is made from. Every field but Observe is required.
type Config struct {
	Devices *device.Registry
	CA      *ca.Authority
	Audit   Recorder
	Tokens  *Tokens
	// Newcomers are who came with a manufacturer's certificate.
	Newcomers *Newcomers
	// Policy returns the policy set in force. Its error refuses.
	Policy func(ctx context.Context) (*policy.Set, error)
	// Settings returns the configuration in force.
	Settings func() *config.File
	Clock    func() time.Time
	Logger   *slog.Logger
	// Observe is called with every answer, for metrics: "granted", "repeated", or
	// the code of a refusal.
	Observe func(way Way, result string)
}

// A Recorder is the audit log, or a test's.
type Recorder interface {
	Append(ctx context.Context, r *audit.Record) error
	Flush(ctx context.Context) error
}

// A Registrar gives devices their certificates.
type Registrar struct {
	cfg    Config
	search sync.Mutex // held over a search of the registry that a stranger causes
}

// New returns a registrar.
func New(cfg Config) *Registrar { return &Registrar{cfg: cfg} }

// TrustDomain returns the trust domain devices are enrolled into.
func (g *Registrar) TrustDomain() string { return g.cfg.CA.TrustDomain() }

// Authorities returns the CA's certificates, those that issue first, roots last.
func (g *Registrar) Authorities() []*x509.Certificate {
	return append(g.cfg.CA.Intermediates(), g.cfg.CA.Roots()...)
}

// RootsPEM returns the root certificates in PEM form.
func (g *Registrar) RootsPEM() []byte { return g.cfg.CA.RootsPEM() }

// Enrol gives a device a certificate, or returns a [*Refusal]. Either is in the
// audit log when it returns: what was granted durably.
func (g *Registrar) Enrol(ctx context.Context, q *Request) (*Issued, error) {
	asked := *q
	q, asked.Proof = &asked, g.proof(q)
	iss, id, err := g.enrol(ctx, q)
	if err == nil {
		g.observe(q.Way, iss.result())
		return iss, nil
	}
	if r, ok := errors.AsType[*Refusal](err); ok && r.Code == Waiting {
		g.observe(q.Way, string(r.Code))
		return nil, r // recorded when the waiting began
	}
	refused := *q
	if id != "" {
		refused.ID = id
	}
	return nil, g.Refuse(ctx, &refused, err)
}

func (g *Registrar) observe(way Way, result string) {
	if g.cfg.Observe != nil {
		g.cfg.Observe(way, result)
	}
}

func (iss *Issued) result() string {
	if iss.Repeated {
		return "repeated"
	}
	return "granted"
}

func (g *Registrar) enrol(ctx context.Context, q *Request) (_ *Issued, id string, err error) {
	// The proof first: who has none gets no further, and nothing of theirs is read.
	st, err := q.Proof.stand(ctx, g, q)
	if err != nil && st != nil {
		id = st.id
	}
	if err != nil {
		return nil, id, err
	}
	if st.operator == "" && (q.New != nil || q.Again || q.TTL != 0) {
		return nil, st.id, refuse(BadRequest, "only an operator says what a device is and how long its certificate lasts")
	}
	if q.ID != "" && q.ID != st.id {
		return nil, st.id, refuse(BadProof, "the proof is not for the device that was named, but for %s", st.id)
	}
	csr, err := q.signingRequest()
	if err != nil {
		return nil, st.id, err
	}
	if err := csr.names(g.TrustDomain(), st.id); err != nil {
		return nil, st.id, err
	}
	if st.request != nil {
		if err := st.request(csr); err != nil {
			return nil, st.id, err
		}
	}
	if st.issued != nil {
		iss, err := g.again(ctx, q, st)
		return iss, st.id, err
	}
	rec, known, err := g.subject(q, st)
	if err != nil {
		return nil, st.id, err
	}
	if q.Weak && !slices.Contains(g.cfg.Settings().Enrolment.SCEP.LegacyClasses, rec.Class) {
		return nil, st.id, refuse(WeakCrypto, "the request of %s is protected by SHA-1, DES or triple DES, which devices of class %s may not use (enrolment.scep.legacy_classes)", st.id, rec.Class)
	}
	if err := g.key(csr, rec); err != nil {
		return nil, st.id, err
	}
	if err := g.quota(q.Way, rec); err != nil {
		return nil, st.id, err
	}
	d, err := g.ask(ctx, q, st, csr, rec)
	if err != nil {
		return nil, st.id, err
	}
	life, err := g.Lifetime(q.TTL, rec.Class)
	if err != nil {
		return nil, st.id, err
	}
	recorded := func() error { return nil }
	if st.operator == "" {
		// An operator's request was recorded where it came in.
		if recorded, err = g.announce(ctx, q, rec); err != nil {
			return nil, st.id, err
		}
	}
	// What was begun is finished, even if who asked has gone away.
	ctx = context.WithoutCancel(ctx)
	iss, err := g.cfg.CA.Issue(ctx, csr.subject(st.profile(life, g.backdate(rec.Class))))
	// Before the record is durable nothing is granted; it and what the CA writes wait for
	// the disk side by side.
	if why := recorded(); why != nil && err == nil {
		g.withdraw(ctx, iss.Leaf)
		err = why
	}
	if err != nil {
		return nil, st.id, err
	}
	granted, err := g.grant(ctx, q, st, csr, rec, known, iss)
	if err != nil {
		g.withdraw(ctx, iss.Leaf)
		return nil, st.id, err
	}
	out := &Issued{Device: granted, Chain: iss.Chain, ChainPEM: iss.ChainPEM, CutShort: iss.CutShort}
	if err := g.recordGranted(ctx, q, st, out, d.Revision); err != nil {
		return nil, st.id, err
	}
	return out, st.id, nil
}

// profile is what the CA is asked for: which certificate it is, the proof says, and
// nothing of the request.
func (st *standing) profile(life time.Duration, backdate *time.Duration) ca.Request {
	if len(st.names) > 0 {
		return ca.Request{Profile: ca.Server, Names: st.names, TTL: life}
	}
	return ca.Request{Profile: ca.Device, ID: st.id, TTL: life, Backdate: backdate}
}

// backdate returns how far a class's certificates lie in the past, if it is not as
// for all.
func (g *Registrar) backdate(class string) *time.Duration {
	if d, ok := g.cfg.Settings().CA.ClassBackdate[class]; ok {
		t := d.D()
		return &t
	}
	return nil
}

// subject returns the record of the device that is asked for, as it will be; known
// says whether the registry has it.
func (g *Registrar) subject(q *Request, st *standing) (rec *device.Record, known bool, err error) {
	rec, known = g.cfg.Devices.Get(st.id)
	switch {
	case !known && q.New == nil:
		err := fmt.Errorf("%s: %w", st.id, device.ErrNotFound)
		return nil, false, &Refusal{Code: NoRecord, Why: err.Error(), err: err}
	case !known:
		fresh := *q.New
		fresh.ID, fresh.Status, fresh.Certificates = st.id, device.Pending, nil
		rec = &fresh
		if err := st.check(nil); err != nil {
			return nil, false, err
		}
	default:
		seen := *rec
		if err := st.check(&seen); err != nil {
			return nil, true, err
		}
		rec = &seen
	}
	if rec.CutOff(g.cfg.Clock()) {
		// It is in quarantine by the clock, though nobody may have noticed yet.
		return nil, known, refuse(BadStatus, "%s: %w: %s, and it is given no certificate until it is released", st.id, device.ErrTransition, device.OverdueReason)
	}
	if err := rec.Valid(); err != nil {
		return nil, known, &Refusal{Code: BadRequest, Why: err.Error(), err: err}
	}
	return rec, known, nil
}

// key refuses a key that another device has, and one that was withdrawn.
func (g *Registrar) key(csr *signingRequest, rec *device.Record) error {
	if other, ok := g.cfg.Devices.ByKey(csr.key); ok && other.ID != rec.ID {
		return &Refusal{Code: BadKey, Why: fmt.Sprintf("the key is the one of %s: a key is one device's", other.ID),
			Public: "the key is another device's", err: device.ErrKeyTaken}
	}
	return csr.inUse(rec)
}

// inUse refuses a key that was withdrawn.
func (csr *signingRequest) inUse(rec *device.Record) error {
	for _, c := range rec.Certificates {
		if c.Key == csr.key && !c.RevokedAt.IsZero() {
			return refuse(BadKey, "the key was withdrawn with certificate %s: make another", c.Serial)
		}
	}
	return nil
}

func hasKey(rec *device.Record, key string) bool {
	return slices.ContainsFunc(rec.Certificates, func(c device.Certificate) bool { return c.Key == key })
}

// quota refuses more certificates than one device needs. It counts what the
// registry knows, and so holds over restarts.
func (g *Registrar) quota(way Way, rec *device.Record) error {
	q, now := g.cfg.Settings().Enrolment.Quota, g.cfg.Clock()
	if rec.Full(now) {
		// What the registry would not take is not issued first: each one would be on the
		// list of revocations.
		return refuse(OverQuota, "%s has as many certificates as a record holds, and is given another when one of them has ended", rec.ID)
	}
	since, n := now.Add(-q.Window.D()), 0
	for _, c := range rec.Certificates {
		if c.Way == string(way) && c.IssuedAt.After(since) {
			n++
		}
	}
	if n >= q.Certificates {
		return refuse(OverQuota, "%s was given %d certificates by way of %s within %v, and more are not given (enrolment.quota)", rec.ID, n, way, q.Window)
	}
	return nil
}

// ask asks the policy set in force. A device that was not approved gets a
// certificate only if rules say that it needs no approval, and it waits if approval
// is all that is missing: if it would be allowed with it.
func (g *Registrar) ask(ctx context.Context, q *Request, st *standing, csr *signingRequest, rec *device.Record) (policy.Decision, error) {
	set, err := g.cfg.Policy(ctx)
	if err != nil {
		return policy.Decision{}, fmt.Errorf("there is no policy set to ask: %w", err)
	}
	d := g.decide(ctx, set, q, st, csr, rec, !st.unapproved)
	if st.unapproved && (!d.Allow || !set.RulesOnEnrolment()) {
		if d = g.decide(ctx, set, q, st, csr, rec, true); d.Allow {
			return d, st.wait(ctx, q, rec)
		}
	}
	if d.Allow {
		return d, nil
	}
	why := strings.Join(d.Denials, "; ")
	if d.Fault != "" {
		why += " (" + d.Fault + ")"
	}
	return d, &Refusal{Code: Denied, Why: "the policy set does not allow it: " + why, Public: "the policy of this place does not allow it"}
}

func (g *Registrar) decide(ctx context.Context, set *policy.Set, q *Request, st *standing, csr *signingRequest, rec *device.Record, approved bool) policy.Decision {
	remote := ""
	if q.Remote.IsValid() {
		remote = q.Remote.Addr().Unmap().WithZone("").String()
	}
	return set.Enrol(ctx, &policy.Enrolment{Device: rec, Now: g.cfg.Clock(), Facts: []protocol.Field{
		field("way", string(q.Way)), field("proof", q.Proof.Name()), {Name: "renewal", Value: protocol.Bool(st.renewal)},
		field("operator", st.operator), field("manufacturer", st.maker), {Name: "approved", Value: protocol.Bool(approved)}, field("remote_ip", remote),
		{Name: "names", Value: protocol.Strings(st.names...)}, {Name: "csr", Value: csr.facts(hasKey(rec, csr.key))},
	}})
}

// Lifetime returns how long a certificate for a class may be valid, if so long
// was asked for; zero means what is configured for the class.
func (g *Registrar) Lifetime(asked time.Duration, class string) (time.Duration, error) {
	c := &g.cfg.Settings().CA
	switch {
	case asked < 0 || asked > c.MaxTTL.D():
		return 0, refuse(BadRequest, "%w lifetime %v: at most %v is allowed (ca.max_ttl)", device.ErrInvalid, asked, c.MaxTTL)
	case asked > 0:
		return asked, nil
	}
	if t, ok := c.ClassTTL[class]; ok {
		return t.D(), nil
	}
	return c.TTL.D(), nil
}

// grant is the step in which a device gets its certificate. What was checked is
// checked again there, because other requests may have come in between.
func (g *Registrar) grant(ctx context.Context, q *Request, st *standing, csr *signingRequest, rec *device.Record, known bool, iss *ca.Issued) (*device.Record, error) {
	gr := device.Grant{
		ID: st.id, Again: st.again,
		Certificate: device.Certificate{
			Serial: iss.Leaf.SerialNumber.String(), Fingerprint: fingerprint(iss.Leaf), Key: csr.key,
			NotBefore: iss.Leaf.NotBefore.UTC(), NotAfter: iss.Leaf.NotAfter.UTC(), Way: string(q.Way), IssuedAt: g.cfg.Clock().UTC(),
			HardwareBacked: st.hardware,
		},
		Check: func(r *device.Record) error {
			if !known {
				return fmt.Errorf("%s: %w", st.id, device.ErrExists)
			}
			if err := st.check(r); err != nil {
				return err
			}
			if err := csr.inUse(r); err != nil {
				return err
			}
			return g.quota(q.Way, r)
		},
	}
	if !known {
		gr.New = rec
	}
	if st.spend != nil {
		gr.Also = func(w store.Writer) error { return st.spend(w, csr, iss.Leaf) }
	}
	out, err := g.cfg.Devices.Grant(ctx, gr)
	switch {
	case errors.Is(err, device.ErrStatus):
		return nil, &Refusal{Code: BadStatus, Why: err.Error(), err: device.ErrTransition}
	case errors.Is(err, device.ErrKeyTaken):
		return nil, &Refusal{Code: BadKey, Why: err.Error(), Public: "the key is another device's", err: err}
	}
	return out, err
}

// withdraw tells the CA that a certificate it issued was not granted. The
// registry does not know it, so that nothing depends on this.
func (g *Registrar) withdraw(ctx context.Context, leaf *x509.Certificate) {
	if err := g.cfg.CA.Revoke(ctx, leaf.SerialNumber.String(), "superseded"); err != nil {
		g.cfg.Logger.Warn("a certificate that was not granted could not be revoked; nothing accepts it", "serial", leaf.SerialNumber.String(), "error", err)
	}
}

// again hands out once more what a proof and key were granted before: the answer
// was lost on its way.
func (g *Registrar) again(ctx context.Context, q *Request, st *standing) (*Issued, error) {
	rec, ok := g.cfg.Devices.Get(st.id)
	if !ok {
		return nil, refuse(NoRecord, "%s: %w", st.id, device.ErrNotFound)
	}
	c := rec.Certificate(fingerprint(st.issued))
	if rec.Status != device.Active || c == nil || !c.RevokedAt.IsZero() {
		return nil, refuse(BadStatus, "%s is %s, and the certificate it was given for this is not in force", st.id, rec.Status)
	}
	chain := g.cfg.CA.ChainOf(st.issued)
	if err := st.issued.CheckSignatureFrom(chain[1]); err != nil {
		return nil, refuse(BadProof, "the certificate that was given for this is from an intermediate CA that is not in use any more")
	}
	out := &Issued{Device: rec, Chain: chain, Repeated: true}
	for _, c := range chain {
		out.ChainPEM = append(out.ChainPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out, g.recordGranted(ctx, q, st, out, "")
}
