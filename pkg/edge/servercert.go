package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// filesPoll is how often certificate files are looked at for a change. Files
// are polled rather than watched because secrets are often mounted through
// links that watchers lose.
const filesPoll = 2 * time.Second

// renewalRatio is the part of a certificate's life that is left when it is
// renewed: after two thirds, as RFC 8555 clients commonly do, which leaves ten
// days of a thirty-day certificate to find out what is wrong.
const renewalRatio = 1.0 / 3

// serverCert is a listener's own certificate: it hands the one of now to every
// handshake and renews it behind. Connections keep what they began with.
type serverCert struct {
	get    func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	alpn   bool // acme-tls/1 challenges are answered
	leaves func() []*x509.Certificate
	stop   func()
}

// certConfig is what a serverCert is made from.
type certConfig struct {
	listener  config.Listener
	dir       string // certmagic storage
	authority *ca.Authority
	log       *slog.Logger
	zap       *zap.Logger
	now       func() time.Time
}

// newServerCert obtains the listener's certificate, and fails if there is none
// to be had: a listener never starts with less than it was told to have.
func newServerCert(ctx context.Context, c certConfig) (*serverCert, error) {
	if c.listener.Certificate.Source == "files" {
		return newFileCert(c)
	}
	key := certmagic.StandardKeyGenerator{KeyType: certmagic.P256}
	if c.listener.TLS.Profile == "legacy" {
		// RSA key exchange and the clients that need it know no other key.
		key.KeyType = certmagic.RSA2048
	}
	cfg := certmagic.Config{
		RenewalWindowRatio: renewalRatio,
		KeySource:          key,
		DefaultServerName:  c.listener.Hosts[0],
		FallbackServerName: c.listener.Hosts[0],
		Storage:            &certmagic.FileStorage{Path: filepath.Join(c.dir, c.listener.Name)},
		OCSP:               certmagic.OCSPConfig{DisableStapling: true},
		Logger:             c.zap,
	}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		RenewCheckInterval: min(time.Minute,
			max(time.Second, time.Duration(float64(c.listener.Certificate.TTL.D())*renewalRatio/4))),
		Logger: c.zap,
	})
	magic = certmagic.New(cache, cfg)
	overACME := c.listener.Certificate.Source == "acme"
	if overACME {
		issuer, err := acmeIssuer(magic, c)
		if err != nil {
			cache.Stop()
			return nil, err
		}
		magic.Issuers = []certmagic.Issuer{issuer}
	} else {
		magic.Issuers = []certmagic.Issuer{c.authority.ServerIssuer(c.listener.Certificate.TTL.D())}
	}
	sc := &serverCert{
		get: magic.GetCertificate, alpn: overACME && c.listener.Certificate.HTTPAddress == "",
		stop: cache.Stop,
		leaves: func() []*x509.Certificate {
			var out []*x509.Certificate
			for _, name := range c.listener.Hosts {
				for _, cert := range cache.AllMatchingCertificates(name) {
					if cert.Leaf != nil {
						out = append(out, cert.Leaf)
					}
				}
			}
			return out
		},
	}
	manage := magic.ManageSync
	if overACME {
		// The challenge may be answered on this very listener, which does not
		// listen yet; and a CA that is down must not keep the others down.
		manage = magic.ManageAsync
	}
	if err := manage(ctx, c.listener.Hosts); err != nil {
		cache.Stop()
		return nil, fmt.Errorf("certificate for %v: %w", c.listener.Hosts, err)
	}
	return sc, nil
}

// acmeIssuer configures certmagic's ACME client for one listener. Terms are
// agreed to because the operator chose the CA by configuring it.
func acmeIssuer(magic *certmagic.Config, c certConfig) (*certmagic.ACMEIssuer, error) {
	set := certmagic.ACMEIssuer{
		CA: c.listener.Certificate.Directory, TestCA: c.listener.Certificate.Directory,
		Email: c.listener.Certificate.Email, Agreed: true, Logger: c.zap,
		DisableHTTPChallenge:    c.listener.Certificate.HTTPAddress == "",
		DisableTLSALPNChallenge: c.listener.Certificate.HTTPAddress != "",
	}
	if a := c.listener.Certificate.Account; a.KeyID != "" {
		key, err := a.HMACKey.Read()
		if err != nil {
			return nil, fmt.Errorf("HMAC key of the ACME account: %w", err)
		}
		set.ExternalAccount = &acme.EAB{KeyID: a.KeyID, MACKey: string(key)}
	}
	if f := c.listener.Certificate.CAFile; f != "" {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("roots of the ACME directory: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("roots of the ACME directory: no certificate in %s", f)
		}
		set.TrustedRoots = pool
	}
	if a := c.listener.Certificate.HTTPAddress; a != "" {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			return nil, fmt.Errorf("http_address: %w", err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, fmt.Errorf("http_address: port %q is not a number", port)
		}
		set.ListenHost, set.AltHTTPPort = host, n
	} else {
		_, port, err := net.SplitHostPort(c.listener.Address)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, fmt.Errorf("port %q is not a number", port)
		}
		set.AltTLSALPNPort = n
	}
	return certmagic.NewACMEIssuer(magic, set), nil
}

// fileCert serves a certificate from files and reads them again when they
// change; a bad pair changes nothing and is logged (invariant 4).
type fileCert struct {
	certFile, keyFile string
	hosts             []string
	log               *slog.Logger
	now               func() time.Time
	cur               atomic.Pointer[tls.Certificate]
	seen              [2]time.Time
	done              chan struct{}
	wg                sync.WaitGroup
}

func newFileCert(c certConfig) (*serverCert, error) {
	f := &fileCert{
		certFile: c.listener.Certificate.Certificate, keyFile: c.listener.Certificate.Key,
		hosts: c.listener.Hosts, log: c.log, now: c.now, done: make(chan struct{}),
	}
	f.seen = f.times()
	if err := f.load(); err != nil {
		return nil, err
	}
	f.wg.Go(f.watch)
	return &serverCert{
		get:    func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.cur.Load(), nil },
		leaves: func() []*x509.Certificate { return []*x509.Certificate{f.cur.Load().Leaf} },
		stop:   func() { close(f.done); f.wg.Wait() },
	}, nil
}

func (f *fileCert) times() (t [2]time.Time) {
	for i, name := range []string{f.certFile, f.keyFile} {
		if st, err := os.Stat(name); err == nil {
			t[i] = st.ModTime()
		}
	}
	return t
}

// ReadCertificate reads a listener's certificate from its files, and checks that
// it has not ended and has all the listener's names.
func ReadCertificate(c config.ServerCertificate, hosts []string, now time.Time) (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.Certificate, err)
	}
	if now.After(cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("certificate %s expired at %s", c.Certificate, cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	for _, h := range hosts {
		if err := cert.Leaf.VerifyHostname(h); err != nil {
			return nil, fmt.Errorf("certificate %s is not for %s", c.Certificate, h)
		}
	}
	return &cert, nil
}

func (f *fileCert) load() error {
	cert, err := ReadCertificate(config.ServerCertificate{Certificate: f.certFile, Key: f.keyFile}, f.hosts, f.now())
	if err != nil {
		return err
	}
	f.cur.Store(cert)
	return nil
}

func (f *fileCert) watch() {
	tick := time.NewTicker(filesPoll)
	defer tick.Stop()
	for {
		select {
		case <-f.done:
			return
		case <-tick.C:
		}
		now := f.times()
		if now == f.seen {
			continue
		}
		f.seen = now
		if err := f.load(); err != nil {
			f.log.Error("certificate files refused, keeping the one in use", "error", err)
			continue
		}
		f.log.Info("certificate files read again", "certificate", f.certFile)
	}
}
