package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/tpm"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

const (
	identityFile = "identity.pem"
	rootsFile    = "roots.pem"
)

// The keys that certificates are being asked for: one for a token, one for
// renewal, so that the two never share one.
const (
	enrolKey = "enrol.key"
	renewKey = "renew.key"
)

// ErrNone says that the device has no certificate yet.
var ErrNone = errors.New("the device has no certificate: anteroom-agent enrol gets one")

// An Identity is a device's key and certificate, and whom it trusts.
type Identity struct {
	Device string // its id
	Pair   tls.Certificate
	Roots  *x509.CertPool

	since time.Time // when it was put in force
}

// Leaf returns the device's certificate.
func (i *Identity) Leaf() *x509.Certificate { return i.Pair.Leaf }

// Due returns when the certificate should be renewed: after two thirds of its life
// and up to a twentieth more, which differs from one certificate to the next, so
// that devices that were enrolled in one afternoon do not all come at once. Its
// life begins when it was put in force: its own beginning lies before that, by a
// day as the gateway is configured to begin with, and a short one would be due when
// it is new.
func (i *Identity) Due() time.Time {
	leaf := i.Leaf()
	from := leaf.NotBefore
	if i.since.After(from) && i.since.Before(leaf.NotAfter) { // or the clock was wrong
		from = i.since
	}
	life := leaf.NotAfter.Sub(from)
	// The serial number is random; its last bytes are as good as any dice, and are
	// the same after a restart.
	serial := leaf.SerialNumber.Bytes()
	n := 0
	for _, b := range serial[max(0, len(serial)-2):] {
		n = n<<8 | int(b)
	}
	return from.Add(life*2/3 + life/20/(1<<16)*time.Duration(n))
}

// A Store is the folder an identity rests in.
type Store struct {
	dir string
	tpm *tpm.TPM // that keys are made in, or nil: in files
}

// OpenStore returns the store in a folder, which is made if it is not there. Keys
// are made in the TPM that is named, or in files if none is.
func OpenStore(dir, device string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s := &Store{dir: dir}
	if device != "" {
		s.tpm = tpm.New(device)
	}
	return s, nil
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// Load returns the identity, or ErrNone.
func (s *Store) Load() (*Identity, error) {
	data, err := readFile(s.path(identityFile), true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	roots, err := readFile(s.path(rootsFile), false)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	st, err := os.Stat(s.path(identityFile))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	id, err := s.parse(data, roots)
	if err != nil {
		return nil, err
	}
	id.since = st.ModTime()
	return id, nil
}

// parse reads an identity from its two files.
func (s *Store) parse(data, roots []byte) (*Identity, error) {
	id := &Identity{}
	var err error
	if id.Pair, err = s.openPair(data); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if id.Device, err = deviceID(id.Pair.Leaf); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if id.Roots, err = parseRoots(roots); err != nil {
		return nil, fmt.Errorf("identity: roots: %w", err)
	}
	return id, nil
}

// deviceID returns the id in a device's certificate.
func deviceID(leaf *x509.Certificate) (string, error) {
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" {
		if id, ok := strings.CutPrefix(leaf.URIs[0].Path, "/device/"); ok && id != "" && !strings.Contains(id, "/") {
			return id, nil
		}
	}
	return "", errors.New("the certificate is not a device's")
}

// parseRoots reads PEM certificates, every one of which must be readable.
func parseRoots(data []byte) (*x509.CertPool, error) {
	certs, err := certificates(data)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

func certificates(data []byte) (out []*x509.Certificate, err error) {
	begun := strings.Count(string(data), "-----BEGIN")
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("there is something else than certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	// What pem.Decode can not read it skips.
	if len(out) == 0 || len(out) != begun {
		return nil, errors.New("no certificates in PEM, or not all of them whole")
	}
	return out, nil
}

// save puts a new identity in force, if it is one: the certificate is for the key,
// a device's, and signed below the roots.
func (s *Store) save(key *pair, chain, roots []byte, now time.Time) (*Identity, error) {
	data := key.with(chain)
	id, err := s.parse(data, roots)
	if err != nil {
		return nil, err
	}
	between := x509.NewCertPool()
	for _, raw := range id.Pair.Certificate[1:] {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, err
		}
		between.AddCert(c)
	}
	// This machine's clock may be wrong, the certificate's beginning is not: a box
	// that starts in 1970 must be able to enrol.
	if now.Before(id.Leaf().NotBefore) {
		now = id.Leaf().NotBefore
	}
	if _, err := id.Leaf().Verify(x509.VerifyOptions{
		Roots: id.Roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return nil, fmt.Errorf("the certificate that was given: %w", err)
	}
	// The roots first: with new roots and the former certificate the gateway is
	// still known, with a new certificate and no roots it is not.
	if err := writeFile(s.path(rootsFile), roots); err != nil {
		return nil, err
	}
	if err := writeFile(s.path(identityFile), data); err != nil {
		return nil, err
	}
	return s.Load()
}

// drop removes a key that is not asked for any more.
func (s *Store) drop(name string) error {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(s.dir)
}
