package enrol

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

const (
	// maxAnchors bounds a file of trust anchors, in bytes, and what it holds.
	maxAnchors  = 256 << 10
	mostAnchors = 32
	mostBetween = 4 // certificates that a device may show beside its own
)

// Makers are the manufacturers whose certificates (IEEE 802.1AR initial device
// identifiers) show that a device is the one of a serial number. What they sign
// counts here and nowhere else.
type Makers struct {
	list []*maker
	ours func() []*x509.Certificate
}

// A maker is one manufacturer and what its anchors may vouch for.
type maker struct {
	cfg     config.Manufacturer
	names   []string // as the registry's records have them
	anchors *x509.CertPool
	keys    map[string]bool // of the anchors
	lists   *makerLists     // of what it revoked; nil if nobody asks
}

// LoadMakers reads the trust anchors of manufacturers. ours returns the certificates
// of the CA here, which is no manufacturer's; it is asked again for every device,
// because roots and intermediates come and go. Nothing is left out: an anchor that
// is not one is an error, because whoever put it there relies on it.
func LoadMakers(list []config.Manufacturer, ours func() []*x509.Certificate) (*Makers, error) {
	m := &Makers{ours: ours}
	whose := map[string]string{}
	for _, c := range ours() {
		whose[keyOf(c.RawSubjectPublicKeyInfo)] = "the CA here"
	}
	for i := range list {
		mk, err := loadMaker(list[i], whose)
		if err != nil {
			return nil, fmt.Errorf("manufacturer %s: %w", list[i].Name, err)
		}
		m.list = append(m.list, mk)
	}
	return m, nil
}

func loadMaker(cfg config.Manufacturer, whose map[string]string) (*maker, error) {
	mk := &maker{cfg: cfg, names: cfg.RegisteredAs, anchors: x509.NewCertPool(), keys: map[string]bool{}}
	if len(mk.names) == 0 {
		mk.names = []string{cfg.Name}
	}
	certs, err := readAnchors(cfg.Anchors)
	if err != nil {
		return nil, err
	}
	for _, c := range certs {
		if err := soundAnchor(c); err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.Anchors, err)
		}
		key := keyOf(c.RawSubjectPublicKeyInfo)
		if other, ok := whose[key]; ok && other != cfg.Name {
			return nil, fmt.Errorf("%s: the key of %q is that of %s: an anchor vouches for one manufacturer's devices", cfg.Anchors, c.Subject, other)
		}
		whose[key], mk.keys[key] = cfg.Name, true
		mk.anchors.AddCert(c)
	}
	if cfg.CRL != "" {
		mk.lists, err = openLists(cfg.CRL, certs, cfg.StaleCRL != "pass")
	}
	return mk, err
}

// readAnchors reads certificates in PEM form, and nothing else.
func readAnchors(path string) (out []*x509.Certificate, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() > maxAnchors {
		return nil, errors.Join(err, fmt.Errorf("%s: larger than %d bytes", path, maxAnchors))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: it holds something that is no certificate in PEM form", path)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if out = append(out, c); len(out) > mostAnchors {
			return nil, fmt.Errorf("%s: more than %d certificates", path, mostAnchors)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: it holds no certificate", path)
	}
	return out, nil
}

// soundAnchor refuses what is no CA's certificate. crypto/x509 takes whatever is in
// a pool for a CA, a device's certificate too.
func soundAnchor(c *x509.Certificate) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return fmt.Errorf("%q is not a CA's certificate (RFC 5280 section 4.2.1.9)", c.Subject)
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%q may not sign certificates (RFC 5280 section 4.2.1.3)", c.Subject)
	}
	return soundKey(c)
}

// soundKey refuses keys that are too short to vouch for anybody, or too long.
func soundKey(c *x509.Certificate) error {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < ca.MinRSA || n > ca.MaxRSA {
			return fmt.Errorf("an RSA key of %d bits; %d to %d are accepted", n, ca.MinRSA, ca.MaxRSA)
		}
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize < 256 {
			return fmt.Errorf("an ECDSA key on %s; P-256 and longer are accepted", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return errors.New("a key that is none of RSA, ECDSA and Ed25519")
	}
	return nil
}

// Ended returns the manufacturers none of whose anchors is in its validity.
func (m *Makers) Ended(now time.Time) (names []string) {
	for _, mk := range m.list {
		certs, err := readAnchors(mk.cfg.Anchors)
		if err == nil && !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return !now.Before(c.NotBefore) && now.Before(c.NotAfter) }) {
			names = append(names, mk.cfg.Name)
		}
	}
	return names
}

// StaleLists returns the manufacturers that have a revocation list that is outside its
// validity, or one that can not be read any more.
func (m *Makers) StaleLists(now time.Time) (names []string) {
	for _, mk := range m.list {
		if mk.lists.stale(now) {
			names = append(names, mk.cfg.Name)
		}
	}
	return names
}

// A factoryIdentity is what a manufacturer's certificate says of a device.
type factoryIdentity struct {
	maker  *maker
	serial string
	model  string // empty unless the manufacturer's certificates say it
	key    string
}

// identify returns what a device's certificate says of it, if exactly one
// manufacturer vouches for it. chain is what the device showed beside it, which
// can lead to an anchor and is nothing by itself.
func (m *Makers) identify(leaf *x509.Certificate, chain []*x509.Certificate, now time.Time) (*factoryIdentity, error) {
	if m == nil || len(m.list) == 0 {
		return nil, errors.New("no manufacturer's certificates are taken here")
	}
	if len(chain) > mostBetween {
		return nil, fmt.Errorf("more than %d certificates are shown beside the device's own", mostBetween)
	}
	switch {
	case leaf.IsCA:
		return nil, errors.New("it is a CA's certificate")
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, errors.New("its key is not for signatures (RFC 5280 section 4.2.1.3)")
	}
	if err := soundKey(leaf); err != nil {
		return nil, err
	}
	serial, err := factorySerial(leaf)
	if err != nil {
		return nil, err
	}
	between := x509.NewCertPool()
	for _, c := range chain {
		// Before anything is verified with it, because that is itself an attack with an
		// absurd key.
		if err := soundKey(c); err != nil {
			return nil, fmt.Errorf("a certificate that is shown beside its own has %w", err)
		}
		between.AddCert(c)
	}
	var by *maker
	var why error
	var chains [][]*x509.Certificate
	for _, mk := range m.list {
		switch found, err := mk.verify(leaf, between, now); {
		case err != nil:
			why = err
		case by != nil:
			return nil, fmt.Errorf("both %s and %s vouch for it", by.cfg.Name, mk.cfg.Name)
		default:
			by, chains = mk, found
		}
	}
	if by == nil {
		return nil, fmt.Errorf("no manufacturer that is trusted here vouches for it: %w", unquoted(why))
	}
	if m.leadsHome(chains) {
		return nil, errors.New("it chains to a certificate of the CA here, which is no manufacturer's")
	}
	if err := by.lists.check(chains, now); err != nil {
		return nil, err
	}
	out := &factoryIdentity{maker: by, serial: serial, key: keyOf(leaf.RawSubjectPublicKeyInfo)}
	switch by.cfg.ModelIn {
	case "cn":
		out.model = leaf.Subject.CommonName
	case "ou":
		if len(leaf.Subject.OrganizationalUnit) == 1 {
			out.model = leaf.Subject.OrganizationalUnit[0]
		}
	default:
		return out, nil
	}
	if !plainText(out.model) {
		return nil, fmt.Errorf("its subject does not name one model in %s", strings.ToUpper(by.cfg.ModelIn))
	}
	return out, nil
}

// leadsHome reports whether one of the chains goes by a key of the CA's here: what
// that signs is enrolled already, whoever else might vouch for it.
func (m *Makers) leadsHome(chains [][]*x509.Certificate) bool {
	ours := m.ours()
	return slices.ContainsFunc(slices.Concat(chains...), func(c *x509.Certificate) bool {
		return slices.ContainsFunc(ours, func(o *x509.Certificate) bool {
			return bytes.Equal(c.RawSubjectPublicKeyInfo, o.RawSubjectPublicKeyInfo)
		})
	})
}

// verify checks the chain to one of the maker's anchors: signatures, validity, path
// lengths, key usages, name constraints. A certificate that has no extended key
// usage is for any use, as those of IEEE 802.1AR are; one that has must be for
// client authentication.
func (mk *maker) verify(leaf *x509.Certificate, between *x509.CertPool, now time.Time) ([][]*x509.Certificate, error) {
	return withoutName(leaf).Verify(x509.VerifyOptions{
		Roots: mk.anchors, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// unquoted returns why a chain does not hold without what crypto/x509 would say of
// names in it: those are a stranger's words.
func unquoted(why error) error {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](why)
	switch {
	case ok && invalid.Reason == x509.Expired, errors.As(why, new(x509.UnhandledCriticalExtension)):
		return why
	case ok:
		return errors.New("a CA in its chain may not sign for it, or it is for another use (RFC 5280 section 6.1)")
	}
	return errors.New("it does not chain to a trust anchor")
}

// makes reports whether a record is of a device that the maker's certificates may
// enrol.
func (mk *maker) makes(rec *device.Record) bool {
	fold := func(list []string, s string) bool {
		return slices.ContainsFunc(list, func(t string) bool { return strings.EqualFold(strings.TrimSpace(s), strings.TrimSpace(t)) })
	}
	return fold(mk.names, rec.Manufacturer) && (len(mk.cfg.Models) == 0 || fold(mk.cfg.Models, rec.Model))
}

// is reports whether a record is that of the device.
func (who *factoryIdentity) is(rec *device.Record) bool {
	return rec.Serial == who.serial && who.maker.makes(rec) && (who.model == "" || strings.EqualFold(rec.Model, who.model))
}
