package admin

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// PushScope is the scope of the signature of a pushed revision. A bundle that was
// signed for anything else, such as for a bundle server, can not be pushed.
const PushScope = "anteroom-push"

const (
	// maxMessage bounds what an author says of a revision, in bytes.
	maxMessage = 500
	// maxCanary bounds the devices and classes named for a trial.
	maxCanary = 1000
	// maxWindow bounds the window in which a trial's denials are counted.
	maxWindow = 30 * 24 * time.Hour
)

// A PushNote is what an author signs beside the files: the value of "anteroom" in
// the metadata of the bundle's manifest.
type PushNote struct {
	Author  string `json:"author"`
	Message string `json:"message"`
	// After is the number of the last push the author knew of. A bundle can so
	// be pushed once only, and not over the head of another author.
	After int `json:"after"`
}

// PushRequest asks for a new revision of the policy set.
type PushRequest struct {
	// Bundle is the set in OPA's bundle format, signed by its author.
	Bundle []byte         `json:"bundle"`
	Canary *CanaryRequest `json:"canary,omitempty"`
}

// CanaryRequest asks for a trial with some devices first.
type CanaryRequest struct {
	Devices    []string      `json:"devices,omitempty"`
	Classes    []string      `json:"classes,omitempty"`
	MaxDenials int           `json:"max_denials"`
	Window     time.Duration `json:"window"`
}

// A Pushed says what became of a change of the policy set.
type Pushed struct {
	Entry bundle.Entry `json:"entry"`
	// Previous was in force before; nil if that was the directory.
	Previous *bundle.Entry `json:"previous,omitempty"`
	// Canary is set if it is on trial only, or if a trial of it was ended.
	Canary   *bundle.Canary `json:"canary,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`
}

// A Revision is a pushed revision with its archive.
type Revision struct {
	Entry  bundle.Entry `json:"entry"`
	Bundle []byte       `json:"bundle"`
}

// CanaryStatus says how a trial goes.
type CanaryStatus struct {
	bundle.Canary
	Entry bundle.Entry `json:"entry"`
	// Report is there when the gateway runs.
	Report *policy.TrialReport `json:"report,omitempty"`
}

func (r *PushRequest) about() string { return strconv.Itoa(len(r.Bundle)) + " bytes" }

// maxCall returns how large the arguments of a call may be.
func (s *Service) maxCall(name string) int64 {
	if name == "policy.push" {
		return maxCall + int64(base64.StdEncoding.EncodedLen(int(s.limits().Archive())))
	}
	return maxCall
}

// limits bound a pushed set.
func (s *Service) limits() bundle.Limits {
	return bundle.Limits{Bytes: int64(s.cfg.State.Config().Policy.MaxSize), Files: policy.DefaultMaxFiles}
}

// options are those that pushed sets are compiled with where no gateway runs.
func (s *Service) options() policy.Options {
	c := &s.cfg.State.Config().Policy
	return policy.Options{MaxBytes: int64(c.MaxSize), Timeout: c.Timeout.D(), Clock: s.cfg.Clock}
}

// PushPolicy verifies who signed a new revision and that it loads, keeps it, and
// puts it in force. When it returns it survives a crash.
func (s *Service) PushPolicy(ctx context.Context, a Actor, req *PushRequest) (*Pushed, error) {
	s.policies.Lock()
	defer s.policies.Unlock()
	if err := s.pushing(); err != nil {
		return nil, err
	}
	cfg := &s.cfg.State.Config().Policy
	b, err := bundle.Read(bytes.NewReader(req.Bundle), s.limits())
	if err != nil {
		return nil, fmt.Errorf("%w bundle: %w", device.ErrInvalid, err)
	}
	note, cert, err := s.verifyPush(ctx, b)
	if err != nil {
		return nil, err
	}
	src, err := policy.FromBundle(b, "pushed by "+note.Author, s.options())
	if err != nil {
		return nil, fmt.Errorf("%w policy set: %w", device.ErrInvalid, err)
	}
	// The signature covers the meaning of data files; this covers every byte.
	if src.Revision() != b.Manifest.Revision {
		return nil, fmt.Errorf("%w: the manifest says revision %.40q, and the files are revision %s", bundle.ErrSignature, b.Manifest.Revision, src.Revision())
	}
	if err := s.loads(ctx, src); err != nil {
		return nil, fmt.Errorf("%w policy set, nothing was changed: %w", device.ErrInvalid, err)
	}
	canary, warnings, err := s.canary(req.Canary)
	if err != nil {
		return nil, err
	}
	out := &Pushed{Warnings: warnings}
	if e, ok := s.cfg.State.Policies.InForce(); ok {
		out.Previous = &e
		if _, _, trying := s.cfg.State.Policies.Canary(); !trying && e.Revision == src.Revision() {
			return nil, bundle.Conflict(fmt.Sprintf("revision %s is in force already and says the same", e.Short()))
		}
	}
	out.Entry, err = s.cfg.State.Policies.Add(bundle.Entry{Revision: src.Revision(), Author: note.Author, Message: note.Message,
		Fingerprint: bundle.Fingerprint(cert)}, req.Bundle, note.After, cfg.History, canary)
	if err != nil {
		return nil, err
	}
	if c, _, ok := s.cfg.State.Policies.Canary(); ok {
		out.Canary = &c
	}
	if err := s.Enforce(ctx); err != nil {
		return nil, fmt.Errorf("revision %d is kept, but not in force: %w; restart the gateway", out.Entry.Number, err)
	}
	if canary != nil {
		s.recheck()
	}
	detail := append(entryFields(&out.Entry), protocol.Field{Name: "fingerprint", Value: protocol.String(out.Entry.Fingerprint)})
	return out, s.commit(ctx, a, "policy.pushed", nil, append(detail, canaryFields(out.Canary)...)...)
}

// pushing reports whether what is pushed is what decides.
func (s *Service) pushing() error {
	cfg := s.cfg.State.Config()
	if cfg.Policy.Source == "pushed" {
		return nil
	}
	return bundle.Conflict(fmt.Sprintf("policy.source is %s, so nothing that is pushed would be in force; set policy.source: pushed in %s and restart the gateway", cfg.Policy.Source, cfg.Path))
}

// verifyPush finds out who signed a bundle, and that this was a policy author of
// ours, with the certificate that is theirs now, for this push.
func (s *Service) verifyPush(ctx context.Context, b *bundle.Bundle) (*PushNote, *x509.Certificate, error) {
	cert, err := b.Certificate()
	if err != nil {
		return nil, nil, err
	}
	st := s.cfg.State
	op, err := s.signer(ctx, cert)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", bundle.ErrSignature, err)
	}
	name := op.Name
	sig, err := b.Verify(bundle.Key{Public: cert.PublicKey, ID: bundle.Fingerprint(cert), Scope: PushScope})
	if err != nil {
		return nil, nil, err
	}
	if want := ca.OperatorURI(st.Config().TrustDomain, name).String(); sig.Issuer != want {
		return nil, nil, fmt.Errorf("%w: its issuer is not %s", bundle.ErrSignature, want)
	}
	if !slices.Contains(op.Roles, PolicyAuthor) {
		return nil, nil, fmt.Errorf("%w: pushing needs an author with the role %s, and %s has %v", errForbidden, PolicyAuthor, name, op.Roles)
	}
	note, err := noteOf(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%w note in the manifest: %w", device.ErrInvalid, err)
	}
	if note.Author != name {
		return nil, nil, fmt.Errorf("%w: made by %s, and the manifest says another author", bundle.ErrSignature, name)
	}
	return note, cert, nil
}

// signer returns whose certificate it is that something was signed with: an
// operator's of ours, who is one now, and has no later one.
func (s *Service) signer(ctx context.Context, cert *x509.Certificate) (Operator, error) {
	st := s.cfg.State
	name, err := st.CA.VerifyOperator(cert, s.cfg.Clock())
	if err != nil {
		return Operator{}, err
	}
	op, err := s.operator(ctx, name)
	if err != nil {
		return Operator{}, err
	}
	revoked, err := st.CA.IsRevoked(cert.SerialNumber.String())
	switch {
	case err != nil:
		return Operator{}, fmt.Errorf("certificate of operator %s: %w", name, err)
	case revoked || !op.RevokedAt.IsZero():
		return Operator{}, fmt.Errorf("operator %s is revoked", name)
	case op.Fingerprint != bundle.Fingerprint(cert):
		return Operator{}, fmt.Errorf("made with a former certificate of operator %s", name)
	}
	return op, nil
}

func noteOf(b *bundle.Bundle) (*PushNote, error) {
	raw, err := json.Marshal(b.Manifest.Metadata["anteroom"])
	if err != nil {
		return nil, err
	}
	note := &PushNote{}
	if err := json.Unmarshal(raw, note); err != nil {
		return nil, err
	}
	if strings.TrimSpace(note.Message) == "" {
		return nil, errors.New("the message is empty; say what is changed and why")
	}
	if len(note.Message) > maxMessage || !utf8.ValidString(note.Message) || strings.IndexFunc(note.Message, unicode.IsControl) >= 0 {
		return nil, fmt.Errorf("the message must be one line of at most %d bytes", maxMessage)
	}
	return note, nil
}

// loads reports why a set could not be put in force, and nil if it could.
func (s *Service) loads(ctx context.Context, src *policy.Source) error {
	if s.cfg.Engine != nil {
		return s.cfg.Engine.Check(ctx, src)
	}
	_, err := src.Compile(ctx, s.options())
	return err
}

// canary checks what is asked of a trial.
func (s *Service) canary(req *CanaryRequest) (*bundle.Canary, []string, error) {
	if req == nil {
		return nil, nil, nil
	}
	bad := func(format string, args ...any) (*bundle.Canary, []string, error) {
		return nil, nil, fmt.Errorf("%w canary: %w", device.ErrInvalid, fmt.Errorf(format, args...))
	}
	switch n := len(req.Devices) + len(req.Classes); {
	case n == 0:
		return bad("no device and no class is named")
	case n > maxCanary:
		return bad("more than %d devices and classes are named; name a class", maxCanary)
	case req.MaxDenials < 0 || req.MaxDenials > policy.MaxTrialDenials:
		return bad("the limit of denials must be from 0 to %d", policy.MaxTrialDenials)
	case req.Window <= 0 || req.Window > maxWindow:
		return bad("the window must be more than nothing and at most %v", maxWindow)
	}
	critical := 0
	count := func(rs ...*device.Record) {
		for _, r := range rs {
			if r.LifeCritical {
				critical++
			}
		}
	}
	for _, id := range req.Devices {
		rec, ok := s.cfg.State.Devices.Get(id)
		if !ok {
			return bad("%s: %w", id, device.ErrNotFound)
		}
		count(rec)
	}
	var warnings []string
	for _, class := range req.Classes {
		if err := device.ValidClass(class); err != nil {
			return bad("%w", err)
		}
		rs := s.cfg.State.Devices.List(device.Filter{Class: class})
		if len(rs) == 0 {
			warnings = append(warnings, fmt.Sprintf("there is no device of class %s yet", class))
		}
		count(rs...)
	}
	if critical == 0 {
		warnings = append(warnings, "none of these devices is life-critical, so the trial does not end by itself")
	}
	return &bundle.Canary{Devices: req.Devices, Classes: req.Classes, MaxDenials: req.MaxDenials, Window: req.Window}, warnings, nil
}

// operator returns the record of an operator.
func (s *Service) operator(ctx context.Context, name string) (o Operator, err error) {
	err = s.cfg.State.Store.View(ctx, func(r store.Reader) error {
		value, err := r.Get(operatorTable, name)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("operator %s: %w", name, device.ErrNotFound)
		}
		if err != nil {
			return err
		}
		return json.Unmarshal(value, &o)
	})
	return o, err
}

func entryFields(e *bundle.Entry) []protocol.Field {
	return []protocol.Field{
		{Name: "number", Value: protocol.String(strconv.Itoa(e.Number))}, {Name: "revision", Value: protocol.String(e.Revision)},
		{Name: "author", Value: protocol.String(e.Author)}, {Name: "message", Value: protocol.String(e.Message)},
	}
}

func canaryFields(c *bundle.Canary) []protocol.Field {
	if c == nil {
		return nil
	}
	return []protocol.Field{
		{Name: "canary_devices", Value: protocol.Strings(c.Devices...)}, {Name: "canary_classes", Value: protocol.Strings(c.Classes...)},
		{Name: "max_denials", Value: protocol.String(strconv.Itoa(c.MaxDenials))}, {Name: "window", Value: protocol.String(c.Window.String())},
	}
}
