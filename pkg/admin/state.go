package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/finding"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/pkg/revocation"
	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// Names within the state directory.
const (
	CADir      = "ca"
	StoreFile  = "registry.db"
	CertDir    = "certmagic"
	SocketName = "admin.sock"
	PolicyDir  = "policy"
	BundleDir  = "policy-bundle"
	TokenKey   = "enrolment.key"
	SCEPFile   = "scep.pem"
)

// ErrInUse says that another process has the state directory.
var ErrInUse = errors.New("the state directory is in use")

// A State is an opened state directory. One process has it at a time.
type State struct {
	config  atomic.Pointer[config.File]
	log     *slog.Logger // may be nil
	release func() error // what was read of the store's file
	Store   store.Store
	Devices *device.Registry
	CA      *ca.Authority
	Audit   *audit.Log
	Tokens  *enrol.Tokens
	// Newcomers are devices that come with their manufacturers' certificates.
	Newcomers *enrol.Newcomers
	// Revocations is what others than the gateway are told of revoked certificates.
	Revocations *revocation.Book
	// Findings are what the gateway found out about devices.
	Findings *finding.Book
	// BreakGlass are the emergency grants.
	BreakGlass *breakglass.Book
	// Policies are the revisions that were pushed.
	Policies *bundle.History
}

// OpenState opens the state directory of a configuration. The error wraps
// [ErrInUse] if a gateway or another command has it.
func OpenState(ctx context.Context, cfg *config.File, log *slog.Logger, clock func() time.Time) (*State, error) {
	s, err := OpenStateEarly(ctx, cfg, log, clock)
	if err != nil {
		return nil, err
	}
	if err := s.Loaded(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// OpenStateEarly is OpenState, but does not wait until the registry is loaded:
// see [State.Loaded].
func OpenStateEarly(ctx context.Context, cfg *config.File, log *slog.Logger, clock func() time.Time) (_ *State, err error) {
	s := &State{log: log}
	s.config.Store(cfg)
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if _, err := os.Stat(filepath.Join(cfg.StateDir, CADir)); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("state directory %s holds no CA: run anteroom init, or set state_dir in %s", cfg.StateDir, cfg.Path)
	}
	// The store first: its lock stands for the whole directory.
	st, err := bolt.Open(filepath.Join(cfg.StateDir, StoreFile))
	if errors.Is(err, bolt.ErrLocked) {
		return nil, fmt.Errorf("%w: another process has %s open", ErrInUse, cfg.StateDir)
	}
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	s.Store = st
	s.release = st.Release
	if s.Devices, err = device.Open(ctx, st, device.Options{Clock: clock, Background: true}); err != nil {
		return nil, err
	}
	if s.Tokens, err = enrol.OpenTokens(st, filepath.Join(cfg.StateDir, TokenKey), clock); err != nil {
		return nil, err
	}
	s.Newcomers = enrol.NewNewcomers(st, clock)
	if s.Findings, err = finding.Open(ctx, st, clock); err != nil {
		return nil, err
	}
	if s.BreakGlass, err = breakglass.Open(ctx, st, clock); err != nil {
		return nil, fmt.Errorf("emergency grants: %w", err)
	}
	if s.Policies, err = bundle.OpenHistory(filepath.Join(cfg.StateDir, PolicyDir), clock); err != nil {
		return nil, err
	}
	pass, err := cfg.CA.Passphrase.Read()
	if err != nil {
		return nil, fmt.Errorf("CA passphrase: %w", err)
	}
	defer clear(pass)
	var pin []byte
	if cfg.CA.KMS != "" {
		if pin, err = cfg.CA.PIN.Read(); err != nil {
			return nil, fmt.Errorf("PIN of the key module: %w", err)
		}
		defer clear(pin)
	}
	if s.CA, err = ca.Open(ctx, ca.Config{
		KMS: cfg.CA.KMS, PIN: pin,
		Dir: filepath.Join(cfg.StateDir, CADir), TrustDomain: cfg.TrustDomain, Passphrase: pass,
		Backdate: cfg.CA.Backdate.D(), CRL: cfg.CA.URLs.CRL, OCSP: cfg.CA.URLs.OCSP, Logger: log, Clock: clock,
	}); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	s.Revocations = revocation.NewBook(revocation.Config{
		CA: s.CA, Devices: s.Devices, NextUpdate: func() time.Duration { return s.Config().Revocation.NextUpdate.D() }, Clock: clock, Logger: log,
	})
	if s.Audit, err = audit.Open(ctx, audit.Config{
		Dir: cfg.Audit.Dir, Origin: audit.Origin(cfg.TrustDomain), Audit: cfg.Audit, Clock: clock, Logger: log,
	}); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return s, nil
}

// Loaded waits until the registry is loaded, and returns why it can not be if that
// is so.
func (s *State) Loaded(ctx context.Context) error {
	if err := s.Devices.Loaded(ctx); err != nil {
		return err
	}
	if err := s.release(); err != nil && s.log != nil {
		s.log.Warn("the registry's file takes memory", "error", err)
	}
	return nil
}

// Config returns the configuration in force. It is shared and must not be changed.
func (s *State) Config() *config.File { return s.config.Load() }

// Configure puts another configuration into force for what is asked for from now
// on. What was opened stays as it is.
func (s *State) Configure(cfg *config.File) { s.config.Store(cfg) }

// Close closes everything, the audit log first, which seals it.
func (s *State) Close() error {
	var errs []error
	if s.Devices != nil {
		s.Devices.Close()
	}
	if s.BreakGlass != nil {
		s.BreakGlass.Close()
	}
	if s.Audit != nil {
		errs = append(errs, s.Audit.Close())
	}
	if s.CA != nil {
		errs = append(errs, s.CA.Close())
	}
	if s.Store != nil {
		errs = append(errs, s.Store.Close())
	}
	return errors.Join(errs...)
}
