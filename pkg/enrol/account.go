package enrol

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// An Account proves by an ACME account (RFC 8555) that was opened with a one-time
// token for a device, and by what was shown since: that a server answers to names
// it may have, or that hardware holds a key. Exactly one of Names and Attested is
// given. Whoever calls has checked the account's signature and the challenges.
type Account struct {
	Device string
	// Opened is when the account was opened. What was withdrawn later is not
	// brought back by it. Again is that of its token.
	Opened time.Time
	Again  bool
	// Names are the DNS names of a server. Its certificate says them, and no
	// identity: it opens nothing here.
	Names []string
	// Attested names a key, as [device.Certificate] does, that the hardware called
	// Hardware attested. The certificate is a device's like any other.
	Attested string
	Hardware string
	// Issued is the certificate that this very order brought before, or nil.
	Issued *x509.Certificate
	// Spend uses the order up, in the step that grants.
	Spend func(w store.Writer, leaf *x509.Certificate) error
}

// Name implements [Proof].
func (a Account) Name() string {
	if a.Attested != "" {
		return "attestation"
	}
	return "account"
}

func (a Account) stand(_ context.Context, g *Registrar, _ *Request) (*standing, error) {
	if (len(a.Names) == 0) == (a.Attested == "") {
		return nil, errors.New("an account asks for names, or for an attested key")
	}
	st := &standing{id: a.Device, again: a.Again, names: a.Names, hardware: a.Attested != ""}
	if rec, ok := g.cfg.Devices.Get(a.Device); ok {
		st.renewal = slices.ContainsFunc(rec.Certificates, func(c device.Certificate) bool {
			return c.RevokedAt.IsZero() && c.NotAfter.After(g.cfg.Clock())
		})
	}
	st.request = func(csr *signingRequest) error {
		if err := a.asks(csr, g.cfg.Devices); err != nil {
			return err
		}
		if a.Issued != nil && keyOf(a.Issued.RawSubjectPublicKeyInfo) != csr.key {
			return refuse(BadProof, "the order brought %s a certificate for another key: make another order", a.Device)
		}
		st.issued = a.Issued
		return nil
	}
	st.check = func(rec *device.Record) error {
		if err := serves(rec, a.Opened, a.Again); err != nil {
			return err
		}
		if a.Attested != "" && HardwareID(rec) != a.Hardware {
			return refuse(BadProof, "the hardware of %s is called otherwise in the registry than it was when it attested the key", rec.ID)
		}
		return nil
	}
	st.spend = func(w store.Writer, _ *signingRequest, leaf *x509.Certificate) error { return a.Spend(w, leaf) }
	return st, nil
}

// asks holds a signing request to the order: RFC 8555 §7.4 wants the names of the
// order in it, all of them and no others.
func (a Account) asks(csr *signingRequest, devices *device.Registry) error {
	others := len(csr.IPAddresses) + len(csr.EmailAddresses) + len(csr.URIs)
	if len(a.Names) == 0 {
		switch {
		case csr.key != a.Attested:
			return refuse(BadKey, "the signing request of %s is for another key than the hardware attested", a.Device)
		case others+len(csr.DNSNames) > 0:
			return refuse(BadNames, "the signing request of %s asks for names beside its hardware's", a.Device)
		case csr.Subject.CommonName == a.Hardware:
			return nil
		}
		return csr.strictNames(devices, a.Device)
	}
	want, got := slices.Sorted(slices.Values(a.Names)), slices.Clone(csr.DNSNames)
	if cn := csr.Subject.CommonName; cn != "" {
		// Clients put a name there that they repeat among the others, or that alone.
		got = append(got, cn)
	}
	slices.Sort(got)
	if others > 0 || !slices.Equal(slices.Compact(want), slices.Compact(got)) {
		return refuse(BadNames, "the signing request of %s does not ask for the names of its order, all of them and no others", a.Device)
	}
	return nil
}

// hardwareTag is the tag of a record that says what attestations call a device's
// hardware, where that is not its serial number: a TPM's may be urn:ek:sha256:….
const hardwareTag = "permanent-identifier"

// HardwareID returns what attestations call a device's hardware: its serial
// number, or its tag permanent-identifier; empty if the registry does not know.
func HardwareID(rec *device.Record) string {
	if id := rec.Tags[hardwareTag]; id != "" {
		return id
	}
	return rec.Serial
}

// Binding is a token in the form in which ACME knows it: the name and the MAC key
// of an external account (RFC 8555 §7.3.4). The key is made from the token by the
// one who keeps tokens, and rests nowhere.
func (t *Tokens) Binding(tok *Token) (name string, key []byte) {
	h := hmac.New(sha256.New, t.key)
	fmt.Fprintf(h, "anteroom acme binding 1\n%s", tok.MAC)
	return tok.Handle, h.Sum(nil)
}

// An Opening asks to open an ACME account.
type Opening struct {
	Binding string // the name of the external account
	// Holds reports whether the binding was made with a key.
	Holds func(key []byte) bool
	// Key names the account's own key.
	Key string
	// Keep writes the account down, in the step that uses the token up.
	Keep func(w store.Writer, deviceID string, opened time.Time, again bool) error
}

// Open opens an ACME account for a device, or returns a [*Refusal]. It uses up the
// token that the account is bound to. The account is worth what its device's
// record allows, whenever it asks for something. Either outcome is in the audit
// log when Open returns. Of the request, Way, Remote and Listener count.
func (g *Registrar) Open(ctx context.Context, q *Request, o *Opening) (deviceID string, err error) {
	q.Proof = Secret{}
	id, err := g.open(ctx, q, o)
	if err == nil {
		g.observe(q.Way, "opened")
		return id, nil
	}
	q.ID = id
	return "", g.Refuse(ctx, q, err)
}

func (g *Registrar) open(ctx context.Context, q *Request, o *Opening) (id string, err error) {
	t := g.cfg.Tokens
	tok, err := t.named(ctx, o.Binding)
	if err != nil {
		return "", err
	}
	if _, key := t.Binding(tok); !o.Holds(key) || tok.MAC == "" {
		return "", unknownToken()
	}
	if err := t.inTime(tok); err != nil {
		return tok.Device, err
	}
	if !tok.Used.IsZero() {
		return tok.Device, usedToken(tok)
	}
	rec, ok := g.cfg.Devices.Get(tok.Device)
	if !ok {
		err := fmt.Errorf("%s: %w", tok.Device, device.ErrNotFound)
		return tok.Device, &Refusal{Code: NoRecord, Why: err.Error(), err: err}
	}
	if err := tok.serves(rec); err != nil {
		return tok.Device, err
	}
	r := g.record(q, eventAccount, rec)
	r.Detail = append(r.Detail, field("token", tok.Handle), field("key", o.Key))
	if err := g.recordFirst(ctx, r); err != nil {
		return tok.Device, err
	}
	ctx = context.WithoutCancel(ctx)
	return tok.Device, t.st.Update(ctx, func(w store.Writer) error {
		now, err := unused(w, tok.Handle)
		if err != nil {
			return err
		}
		now.Used, now.Key = t.clock().UTC(), "acme:"+o.Key
		if err := put(w, now); err != nil {
			return err
		}
		return o.Keep(w, now.Device, now.Used, now.Again)
	})
}

// An AccountEvent is what the owner of an ACME account does to it.
type AccountEvent string

// The events, as the audit log calls them.
const (
	AccountEnded   AccountEvent = "enrolment.account-ended"
	AccountRekeyed AccountEvent = "enrolment.account-rekeyed" // it has another key
)

// Changes records, durably, what the owner of an account is about to do to it.
func (g *Registrar) Changes(ctx context.Context, q *Request, event AccountEvent) error {
	rec, ok := g.cfg.Devices.Get(q.ID)
	if !ok {
		rec = &device.Record{ID: q.ID}
	}
	return g.recordFirst(ctx, g.record(q, string(event), rec))
}

// May reports whether a device may be given a certificate by an account, as far as
// its record says: what [Registrar.Enrol] will find is found before anybody takes
// the trouble. The error is a [*Refusal].
func (g *Registrar) May(deviceID string, opened time.Time, again bool) (*device.Record, error) {
	rec, ok := g.cfg.Devices.Get(deviceID)
	if !ok {
		return nil, refuse(NoRecord, "%s: %w", deviceID, device.ErrNotFound)
	}
	return rec, serves(rec, opened, again)
}

// Refuse records that a request was refused before it came to [Registrar.Enrol],
// by the one who speaks its protocol. Its ID is the device's, if that is sure.
func (g *Registrar) Refuse(ctx context.Context, q *Request, err error) *Refusal {
	r := asRefusal(err)
	g.observe(q.Way, string(r.Code))
	r.Reference = newReference()
	g.recordRefusal(ctx, q, q.ID, r)
	return r
}

// NewRefusal makes a refusal for [Registrar.Refuse]. why holds no byte that a device sent.
func NewRefusal(code Code, why string) *Refusal { return &Refusal{Code: code, Why: why} }
