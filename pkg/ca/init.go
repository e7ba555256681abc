package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"go.step.sm/crypto/pemutil"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

const (
	// rootYears outlives the devices that are installed now; many serve ten
	// years and more, and their trust in the root is hard to replace.
	rootYears = 15
	// intermediateYears is the three years a private signature key should sign
	// for at most (NIST SP 800-57 part 1 rev. 5 §5.3.6, table 1), and the two
	// years of the longest device certificate that may have been signed last.
	intermediateYears = 5
	// caBackdate lets devices with a slow clock trust a CA made today. A week
	// is more than an unset clock drifts between services.
	caBackdate = 7 * 24 * time.Hour
	// maxOrganisation is ub-organization-name of RFC 5280 appendix A.
	maxOrganisation = 64
)

// InitConfig says what CA [Init] makes.
type InitConfig struct {
	Dir string // the CA's directory; must be absent or empty
	// RootKeyPath is the file the root's encrypted key goes to; it must not
	// exist. Default: root.key in Dir. It is never read again by this package.
	RootKeyPath  string
	TrustDomain  string // see ValidTrustDomain; cannot be changed later
	Organisation string // at most 64 characters, in every certificate's subject
	// Passphrase encrypts the intermediate's key, and the root's if
	// RootPassphrase is empty. At least MinPassphrase bytes.
	Passphrase     []byte
	RootPassphrase []byte
	// ConstrainURIs puts a critical name constraint into the intermediate that
	// permits URIs of the trust domain only. Off by default because common
	// embedded TLS stacks refuse chains with it.
	ConstrainURIs bool
	Clock         func() time.Time // default time.Now
}

// InitResult says what [Init] made.
type InitResult struct {
	Dir          string
	RootKeyPath  string
	Root         *x509.Certificate
	Intermediate *x509.Certificate
}

// Init makes a CA. It overwrites nothing. The CA's directory appears at its
// place whole, in one step, after everything in it is on stable storage; until
// then it is built beside it, in a directory named like it with a leading dot
// and ".init-", which a killed Init leaves behind and which can be removed.
//
// A root key outside the directory is written before that step, so that no CA
// exists without it. If Init is killed between the two, the next one refuses
// because of the root key; that file then belongs to no CA and can be removed.
func Init(ctx context.Context, cfg InitConfig) (_ *InitResult, err error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	rootKey := filepath.Join(dir, rootKeyFile)
	if cfg.RootKeyPath != "" {
		if rootKey, err = filepath.Abs(cfg.RootKeyPath); err != nil {
			return nil, fmt.Errorf("make CA: %w", err)
		}
	}
	if err := absentOrEmpty(dir); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	if _, err := os.Lstat(rootKey); err == nil {
		return nil, fmt.Errorf("make CA: root key file %s exists, and nothing is overwritten (if an interrupted init left it, remove it)", rootKey)
	}
	m, err := newMaterial(cfg)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	if err := m.place(dir, rootKey); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	// From here the CA exists and must not be taken apart again, whatever happens.
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("make CA: %s was made, but may not survive a power failure: %w", dir, err)
	}
	return &InitResult{Dir: dir, RootKeyPath: rootKey, Root: m.root, Intermediate: m.intermediate}, nil
}

func (cfg *InitConfig) check() error {
	if cfg.Dir == "" {
		return errors.New("no directory given")
	}
	if err := ValidTrustDomain(cfg.TrustDomain); err != nil {
		return err
	}
	if n := utf8.RuneCountInString(cfg.Organisation); n == 0 || n > maxOrganisation || !utf8.ValidString(cfg.Organisation) {
		return fmt.Errorf("the organisation's name must have 1 to %d characters", maxOrganisation)
	}
	for _, r := range cfg.Organisation {
		if r < ' ' || r == 0x7f {
			return errors.New("the organisation's name holds a control character")
		}
	}
	if err := checkPassphrase(cfg.Passphrase); err != nil {
		return err
	}
	if len(cfg.RootPassphrase) == 0 {
		cfg.RootPassphrase = cfg.Passphrase
	}
	if err := checkPassphrase(cfg.RootPassphrase); err != nil {
		return fmt.Errorf("root key: %w", err)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return nil
}

// material is a CA in memory, its keys already encrypted.
type material struct {
	root, intermediate       *x509.Certificate
	rootKey, intermediateKey []byte // encrypted PEM
}

func newMaterial(cfg InitConfig) (*material, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	rootTemplate := caTemplate("Root", cfg.TrustDomain, cfg.Organisation, rootYears, 1, cfg.Clock())
	root, err := signCA(rootTemplate, rootTemplate, rootKey.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("intermediate key: %w", err)
	}
	intermediate, err := signCA(intermediateTemplate(cfg.TrustDomain, cfg.Organisation, cfg.ConstrainURIs, cfg.Clock()), root, key.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("intermediate: %w", err)
	}

	m := &material{root: root, intermediate: intermediate}
	if m.rootKey, err = encryptKey(rootKey, cfg.RootPassphrase); err != nil {
		return nil, fmt.Errorf("encrypt root key: %w", err)
	}
	if m.intermediateKey, err = encryptKey(key, cfg.Passphrase); err != nil {
		return nil, fmt.Errorf("encrypt intermediate key: %w", err)
	}
	return m, nil
}

// caTemplate is what root and intermediate have in common.
func caTemplate(role, trustDomain, organisation string, years, pathLen int, now time.Time) *x509.Certificate {
	start := now.UTC().Add(-caBackdate).Truncate(time.Second)
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{organisation}, CommonName: "Anteroom " + role + " CA"},
		NotBefore:             start,
		NotAfter:              start.AddDate(years, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
		// CA certificates name the trust domain they are for (SPIFFE X.509-SVID §2);
		// Open compares it with the configuration.
		URIs: []*url.URL{{Scheme: scheme, Host: trustDomain}},
	}
}

func intermediateTemplate(trustDomain, organisation string, constrain bool, now time.Time) *x509.Certificate {
	c := caTemplate("Intermediate", trustDomain, organisation, intermediateYears, 0, now)
	if constrain {
		c.PermittedDNSDomainsCritical = true // the name crypto/x509 gives the whole extension's bit
		c.PermittedURIDomains = []string{trustDomain}
	}
	return c
}

// signCA signs a CA certificate for key. Its subject gets the beginning of the
// key's identifier, so that two CAs of one organisation have different names.
func signCA(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	if template.SubjectKeyId, err = keyID(spki); err != nil {
		return nil, err
	}
	template.Subject.CommonName += fmt.Sprintf(" %X", template.SubjectKeyId[:4])
	if template.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// serialBits is the length of serial numbers: twice the 64 random bits that
// make them unguessable, within the 20 octets of RFC 5280 §4.1.2.2.
const serialBits = 128

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil // RFC 5280: positive
}

func encryptKey(key *ecdsa.PrivateKey, passphrase []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	block, err := pemutil.EncryptPKCS8PrivateKey(rand.Reader, der, passphrase, x509.PEMCipherAES256)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// place writes everything beside dir, then puts it there.
func (m *material) place(dir, rootKey string) (err error) {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, dirMode); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+".init-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(tmp)
		}
	}()
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{rootFile, certPEM(m.root), certMode},
		{intermediateFile, certPEM(m.intermediate), certMode},
		{intermediateKeyFile, m.intermediateKey, keyMode},
	} {
		if err := durable.Create(filepath.Join(tmp, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	database, err := openDatabase(filepath.Join(tmp, databaseFile))
	if err != nil {
		return err
	}
	if err := database.Shutdown(); err != nil {
		return err
	}
	if rel, ok := below(dir, rootKey); ok {
		at := filepath.Join(tmp, rel)
		if err := os.MkdirAll(filepath.Dir(at), dirMode); err != nil {
			return err
		}
		if err := durable.Create(at, m.rootKey, keyMode); err != nil {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(at)); err != nil {
			return err
		}
	} else {
		if err := os.MkdirAll(filepath.Dir(rootKey), dirMode); err != nil {
			return err
		}
		if err := durable.Create(rootKey, m.rootKey, keyMode); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = os.Remove(rootKey)
			}
		}()
		if err := durable.SyncDir(filepath.Dir(rootKey)); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(tmp); err != nil {
		return err
	}
	// Remove takes an empty directory only, Rename an absent name only.
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return nil
}

func certPEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
