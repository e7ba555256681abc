package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"text/template"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/db"
	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/pemutil"
)

// ErrClosed is returned by calls on an Authority that was closed.
var ErrClosed = errors.New("the CA is closed")

// ErrPassphrase is wrapped by the error of [Open] when the passphrase does not
// decrypt the intermediate's key.
var ErrPassphrase = errors.New("wrong passphrase")

// Config says which CA [Open] opens.
type Config struct {
	Dir         string // as given to Init
	TrustDomain string // must be the one the CA was made for
	Passphrase  []byte // of the intermediate's key; not kept
	// Backdate is how far a certificate's not-before lies before its issue.
	// Zero means not at all.
	Backdate time.Duration
	// KMS is the URI of the PKCS#11 module that the next intermediate's key is made in,
	// and those that were made so are; PIN is its user's. Empty means files.
	KMS string
	PIN []byte
	// CRL and OCSP are URLs that certificates name for who asks whether they were
	// revoked. Empty means that they name none.
	CRL, OCSP string
	Logger    *slog.Logger     // default: nothing is logged
	Clock     func() time.Time // default time.Now

	fault func(step string) // for tests: called at each step of a rotation
}

// An Authority is an open CA. Its methods are safe for concurrent use.
type Authority struct {
	dir          string
	trustDomain  string
	organisation string
	backdate     time.Duration
	crl, ocsp    string
	log          *slog.Logger
	clock        func() time.Time

	trust     atomic.Pointer[trust] // swapped whole while mu is held
	templates map[Profile]*template.Template

	db     *db.DB
	module apiv1.KeyManager // nil if there is none

	revocations atomic.Uint64 // made since the CA was opened
	listing     sync.Mutex    // held while a revocation list is numbered and made
	rotating    sync.Mutex    // held while whom the CA trusts or signs with is changed
	fault       func(step string)

	mu     sync.RWMutex // held for reading by every call that uses engine or db
	closed bool
}

// Open opens the CA in a directory. It fails if another process has it open.
// The root's key is not needed and not looked for.
func Open(ctx context.Context, cfg Config) (*Authority, error) {
	a, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open CA in %s: %w", cfg.Dir, err)
	}
	return a, nil
}

func open(ctx context.Context, cfg Config) (_ *Authority, err error) {
	if cfg.Backdate < 0 {
		return nil, errors.New("back-dating is negative")
	}
	a := &Authority{
		dir: cfg.Dir, fault: cfg.fault, trustDomain: cfg.TrustDomain, backdate: cfg.Backdate, crl: cfg.CRL, ocsp: cfg.OCSP, log: cfg.Logger, clock: cfg.Clock,
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.clock == nil {
		a.clock = time.Now
	}
	if a.templates, err = loadTemplates(); err != nil {
		return nil, err
	}
	t, err := readTrust(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if a.organisation, err = t.check(cfg.TrustDomain); err != nil {
		return nil, err
	}
	if err := a.openModule(ctx, &cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && a.module != nil {
			err = errors.Join(err, a.module.Close())
		}
	}()
	if err := a.readKeys(t, cfg.Passphrase); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// An absent database would be made anew, and every revocation forgotten.
	path := filepath.Join(cfg.Dir, databaseFile)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if a.db, err = openDatabase(path); err != nil {
		return nil, fmt.Errorf("database %s (a running gateway holds it, or a command that works on the state directory): %w", path, err)
	}
	if err := a.use(t); err != nil {
		return nil, errors.Join(err, a.db.Shutdown())
	}
	if left := a.issuer().NotAfter.Sub(a.clock()); left < warnBefore {
		a.log.Warn("the intermediate CA certificate ends soon", "not_after", a.issuer().NotAfter)
	}
	return a, nil
}

// warnBefore is when Open begins to warn of the intermediate's end: with less
// than this, certificates of the usual lifetime are already cut short.
const warnBefore = 365 * 24 * time.Hour

// Close waits for calls under way and releases the database. Closing twice is
// no error.
func (a *Authority) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	err := a.trust.Load().engine.Shutdown()
	if a.module != nil {
		err = errors.Join(err, a.module.Close())
	}
	if err != nil {
		return fmt.Errorf("close CA: %w", err)
	}
	return nil
}

// enter is called by everything that uses the engine or the database. If it
// returns nil, leave must be called.
func (a *Authority) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.RLock()
	if a.closed {
		a.mu.RUnlock()
		return ErrClosed
	}
	return nil
}

func (a *Authority) leave() { a.mu.RUnlock() }

// TrustDomain returns the trust domain the CA issues for.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// Organisation returns the organisation the CA was made for.
func (a *Authority) Organisation() string { return a.organisation }

// issuer is the intermediate that signs.
func (a *Authority) issuer() *x509.Certificate { return a.trust.Load().issuing() }

// use builds the engine that signs with the first intermediate, and puts everything
// in place.
func (a *Authority) use(t *trust) (err error) {
	t.engine, err = authority.NewEmbedded(
		authority.WithConfig(&config.Config{AuthorityConfig: &config.AuthConfig{}}),
		authority.WithX509RootCerts(t.roots...),
		authority.WithX509Signer(t.issuing(), t.keys[0]),
		authority.WithDatabase(a.db),
		authority.WithQuietInit(),
	)
	if err != nil {
		return err
	}
	a.trust.Store(t)
	return nil
}

// maxFile bounds the PEM files that are read: a hundred certificates and more.
const maxFile = 1 << 20

func readLimited(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

func readCerts(path string) ([]*x509.Certificate, error) {
	data, err := readLimited(path)
	if err != nil {
		return nil, err
	}
	list, err := pemutil.ParseCertificateBundle(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return list, nil
}

func pool(list []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range list {
		p.AddCert(c)
	}
	return p
}
