package enrol

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/town"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

const domain = town.Domain

func TestMain(m *testing.M) { os.Exit(town.Main(m)) }

// A desk is a registrar with everything it needs, on a disk of its own.
type desk struct {
	*Registrar
	t     *testing.T
	dir   string
	cfg   *config.File
	log   *audit.Log
	store *bolt.Store
	set   *policy.Set
	ahead time.Duration
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	return openDesk(t, t.TempDir())
}

func openDesk(t *testing.T, dir string) *desk {
	t.Helper()
	shared := town.Share(t)
	d := &desk{t: t, dir: dir, set: shared.Policy}
	clock := func() time.Time { return time.Now().Add(d.ahead) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	d.cfg, err = config.Parse(filepath.Join(dir, "anteroom.yaml"), []byte(`trust_domain: `+domain+`
organisation: Test
ca: {passphrase: {env: X}}
audit: {flush_time: 1ms}
listeners: [{name: devices, address: "127.0.0.1:0", hosts: [gw.example]}]
`))
	must(err)
	d.store, err = bolt.Open(filepath.Join(dir, "registry.db"))
	must(err)
	devices, err := device.Open(t.Context(), d.store, device.Options{Clock: clock})
	must(err)
	d.log, err = audit.Open(t.Context(), audit.Config{Dir: filepath.Join(dir, "audit"), Origin: audit.Origin(domain), Audit: d.cfg.Audit, Clock: clock})
	must(err)
	tokens, err := OpenTokens(d.store, filepath.Join(dir, "enrolment.key"), clock)
	must(err)
	d.Registrar = New(Config{Devices: devices, CA: shared.CA, Audit: d.log, Tokens: tokens, Newcomers: NewNewcomers(d.store, clock), Clock: clock, Logger: slog.New(slog.DiscardHandler),
		Policy:   func(context.Context) (*policy.Set, error) { return d.set, nil },
		Settings: func() *config.File { return d.cfg }})
	t.Cleanup(func() {
		if err := errors.Join(d.log.Close(), d.store.Close()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// killed returns the desk as it is after the process was killed now.
func (d *desk) killed() *desk {
	d.t.Helper()
	dir := d.t.TempDir()
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a file that was just being replaced
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		if err != nil || e.IsDir() {
			return errors.Join(err, os.MkdirAll(filepath.Join(dir, rel), 0o700))
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), data, 0o600)
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return openDesk(d.t, dir)
}

func (d *desk) register(id string, status device.Status) *device.Record {
	d.t.Helper()
	rec, err := d.Registrar.cfg.Devices.Create(d.t.Context(), &device.Record{ID: id, Class: "infusion-pump", Status: status})
	if err != nil {
		d.t.Fatal(err)
	}
	return rec
}

func (d *desk) token(id string) string {
	d.t.Helper()
	text, _, err := d.Registrar.cfg.Tokens.Create(d.t.Context(), id, "jane", time.Hour, false)
	if err != nil {
		d.t.Fatal(err)
	}
	return text
}

// by enrols with a token.
func (d *desk) by(token string, csr []byte) (*Issued, error) {
	return d.Enrol(d.t.Context(), &Request{Way: ByToken, CSR: csr, Proof: Secret{token}, Remote: netip.MustParseAddrPort("192.0.2.7:4711"), Listener: "enrolment"})
}

func (d *desk) operator(id string, csr []byte) (*Issued, error) {
	return d.Enrol(d.t.Context(), &Request{Way: CLI, ID: id, CSR: csr, Proof: Operator{"jane"}, New: &device.Record{Class: "infusion-pump"}})
}

func (d *desk) record(id string) *device.Record {
	rec, _ := d.Registrar.cfg.Devices.Get(id)
	return rec
}

// events returns event and code of the records about a device.
func (d *desk) events(id string) (out []string) {
	d.t.Helper()
	if err := d.log.Flush(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	for e, err := range audit.Read(d.t.Context(), filepath.Join(d.dir, "audit"), audit.ReadOptions{Filter: audit.Filter{Device: id}}) {
		if err != nil {
			d.t.Fatal(err)
		}
		out = append(out, e.Event)
	}
	return out
}

func newKey(t testing.TB, kind ca.KeyKind) crypto.Signer {
	t.Helper()
	key, err := ca.GenerateKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// request makes a signing request; uris are what it asks for.
func request(t testing.TB, key crypto.Signer, cn string, uris ...string) []byte {
	t.Helper()
	in := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		in.URIs = append(in.URIs, u)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, in, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// refused holds that an error is a refusal with a code.
func refused(t *testing.T, what string, err error, code Code) *Refusal {
	t.Helper()
	r, ok := errors.AsType[*Refusal](err)
	if !ok || r.Code != code || r.Reference == "" {
		t.Errorf("%s: %v (%+v), want the code %s", what, err, r, code)
		return &Refusal{}
	}
	return r
}

// count returns how many records of an event there are.
func (d *desk) count(event string) (n int) {
	d.t.Helper()
	if err := d.log.Flush(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	for _, err := range audit.Read(d.t.Context(), filepath.Join(d.dir, "audit"), audit.ReadOptions{Filter: audit.Filter{Event: event}}) {
		if err != nil {
			d.t.Fatal(err)
		}
		n++
	}
	return n
}
