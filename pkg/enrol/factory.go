package enrol

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// maxSerial bounds what is taken for a serial number: as long as attributes of
// names are (ub-serial-number, RFC 5280 appendix A.1).
const maxSerial = 64

var (
	oidSerialNumber       = asn1.ObjectIdentifier{2, 5, 4, 5}                // X.520
	oidSubjectAltName     = asn1.ObjectIdentifier{2, 5, 29, 17}              // RFC 5280 §4.2.1.6
	oidHardwareModuleName = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4} // RFC 4108 §5
)

// factorySerial returns the serial number of the device a manufacturer's
// certificate is for: the subject's serialNumber (IEEE 802.1AR §8.6), or the one of
// the hardwareModuleName among the alternative names. Where both are there they have
// to be the same.
func factorySerial(c *x509.Certificate) (string, error) {
	serial, has := "", false
	for _, a := range c.Subject.Names {
		if !a.Type.Equal(oidSerialNumber) {
			continue
		}
		text, ok := a.Value.(string)
		if !ok || has || !plainText(text) {
			return "", errors.New("its subject does not have one serialNumber that can be read")
		}
		serial, has = text, true
	}
	module, err := hardwareSerial(c)
	switch {
	case err != nil:
		return "", err
	case module == "" && !has:
		return "", errors.New("it names no serial number, neither in its subject nor as hardwareModuleName")
	case module != "" && has && module != serial:
		return "", errors.New("its subject and its hardwareModuleName have different serial numbers")
	case module != "":
		return module, nil
	}
	return serial, nil
}

// plainText reports whether text can be shown, kept and compared as it is.
func plainText(s string) bool {
	if s == "" || len(s) > maxSerial || s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// hardwareSerial returns the serial number of the one hardwareModuleName (RFC 4108
// §5) that a certificate may have, as text if it is text and in hex if not. It
// reads the extension itself, because crypto/x509 passes over names of other kinds.
func hardwareSerial(c *x509.Certificate) (serial string, err error) {
	malformed := errors.New("its subject alternative name is malformed")
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		in, names := cryptobyte.String(ext.Value), cryptobyte.String(nil)
		if !in.ReadASN1(&names, cbasn1.SEQUENCE) || !in.Empty() {
			return "", malformed
		}
		for !names.Empty() {
			var name cryptobyte.String
			var tag cbasn1.Tag
			if !names.ReadAnyASN1(&name, &tag) {
				return "", malformed
			}
			if tag != cbasn1.Tag(0).ContextSpecific().Constructed() { // otherName
				continue
			}
			var kind asn1.ObjectIdentifier
			if !name.ReadASN1ObjectIdentifier(&kind) {
				return "", malformed
			}
			if !kind.Equal(oidHardwareModuleName) {
				continue
			}
			var value, module, number cryptobyte.String
			var hwType asn1.ObjectIdentifier
			if !name.ReadASN1(&value, cbasn1.Tag(0).ContextSpecific().Constructed()) || !name.Empty() ||
				!value.ReadASN1(&module, cbasn1.SEQUENCE) || !value.Empty() ||
				!module.ReadASN1ObjectIdentifier(&hwType) || !module.ReadASN1(&number, cbasn1.OCTET_STRING) || !module.Empty() {
				return "", errors.New("its hardwareModuleName is malformed (RFC 4108 section 5)")
			}
			if serial != "" || len(number) == 0 || len(number) > maxSerial/2 {
				return "", errors.New("it has not one hardwareModuleName of 1 to 32 octets")
			}
			if serial = string(number); !plainText(serial) {
				serial = hex.EncodeToString(number)
			}
		}
	}
	return serial, nil
}

// withoutName returns a certificate for whose verification the alternative name is
// dealt with. Where the subject is empty RFC 5280 §4.2.1.6 wants the name critical,
// and crypto/x509 does not know that it was read here.
func withoutName(c *x509.Certificate) *x509.Certificate {
	out := *c
	out.UnhandledCriticalExtensions = nil
	for _, id := range c.UnhandledCriticalExtensions {
		if !id.Equal(oidSubjectAltName) {
			out.UnhandledCriticalExtensions = append(out.UnhandledCriticalExtensions, id)
		}
	}
	return &out
}

// A Factory proves by the certificate that the device's manufacturer gave it, and
// whose key it proved to have. The registry's record with the manufacturer and the
// serial number says which device it is, and an operator approves it, or the policy
// set has its class approved.
type Factory struct {
	Makers *Makers
	Leaf   *x509.Certificate
	Chain  []*x509.Certificate // what the device showed beside it
}

// Name implements [Proof].
func (Factory) Name() string { return "manufacturer" }

func (f Factory) stand(ctx context.Context, g *Registrar, _ *Request) (*standing, error) {
	who, err := f.Makers.identify(f.Leaf, f.Chain, g.cfg.Clock())
	if err != nil {
		return nil, &Refusal{Code: BadProof, Why: "the manufacturer's certificate shows nothing here: " + err.Error(), Public: "the certificate shows nothing here", err: err}
	}
	rec, err := g.listed(who)
	if err != nil {
		return nil, err
	}
	n, err := g.cfg.Newcomers.get(ctx, rec.ID)
	if err != nil {
		return nil, err
	}
	st := &standing{id: rec.ID, maker: who.maker.cfg.Name, unapproved: !n.approved(rec),
		detail: []protocol.Field{field("manufacturer", who.maker.cfg.Name), field("factory_key", who.key)}}
	if err := n.same(who); err != nil {
		return st, err
	}
	st.request = func(csr *signingRequest) (err error) {
		if err := csr.strictNames(g.cfg.Devices, rec.ID); err != nil {
			return err
		}
		if st.unapproved && n.Key == csr.key && g.cfg.Clock().Before(n.Used.Add(repeatTime)) {
			st.issued, err = x509.ParseCertificate(n.Leaf)
		}
		return err
	}
	st.check = func(rec *device.Record) error {
		if rec == nil || !who.is(rec) {
			return notListed(who)
		}
		if rec.Status != device.Pending && rec.Status != device.Active {
			return refusedStatus(rec, "and is not enrolled with its manufacturer's certificate")
		}
		if !st.unapproved && !n.approved(rec) {
			return withdrawnApproval(rec)
		}
		return nil
	}
	st.wait = func(ctx context.Context, q *Request, rec *device.Record) error { return g.wait(ctx, q, rec, who) }
	st.spend = func(w store.Writer, csr *signingRequest, leaf *x509.Certificate) error {
		now, err := newcomer(w, rec.ID)
		if err != nil {
			return err
		}
		if err := now.same(who); err != nil {
			return err
		}
		if !st.unapproved && !now.Approved.Equal(n.Approved) {
			return withdrawnApproval(rec)
		}
		now.meet(who, g.cfg.Clock())
		now.Approved, now.Waits = time.Time{}, false
		now.Used, now.Key, now.Leaf = g.cfg.Clock().UTC(), csr.key, leaf.Raw
		return now.put(w)
	}
	return st, nil
}

func withdrawnApproval(rec *device.Record) error {
	return refuse(BadProof, "the approval of %s was withdrawn or used in the meantime", rec.ID)
}

// listed returns the record of the device that a manufacturer's certificate is of.
func (g *Registrar) listed(who *factoryIdentity) (*device.Record, error) {
	// One search at a time: it goes through the whole registry.
	g.search.Lock()
	defer g.search.Unlock()
	var found *device.Record
	for _, rec := range g.cfg.Devices.List(device.Filter{Serial: who.serial}) {
		switch {
		case rec.Status == device.Retired || !who.is(rec):
			continue
		case found != nil && rec.Status == device.Revoked:
			continue // another record took its place
		case found != nil && found.Status == device.Revoked:
			found = nil
		}
		if found != nil {
			return nil, &Refusal{Code: NoRecord, Public: "the gateway does not know which device this is",
				Why: fmt.Sprintf("both %s and %s are devices of %s with the serial number %q", found.ID, rec.ID, who.maker.cfg.Name, who.serial)}
		}
		found = rec
	}
	if found == nil {
		return nil, notListed(who)
	}
	return found, nil
}

// notListed is the refusal of a device that nobody expects. The serial number is
// the manufacturer's word, and plain text.
func notListed(who *factoryIdentity) error {
	what := fmt.Sprintf("a device of %s with the serial number %q", who.maker.cfg.Name, who.serial)
	if who.model != "" {
		what += fmt.Sprintf(" and the model %q", who.model)
	}
	return &Refusal{Code: NoRecord, Why: what + " is not in the registry", Public: "the device is not on the list of this place", err: device.ErrNotFound}
}
