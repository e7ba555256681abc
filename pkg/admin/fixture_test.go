package admin

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

const text = `trust_domain: hospital.example
organisation: Test Hospital
ca: {passphrase: {file: pass}, class_ttl: {ct-scanner: 240h}}
listeners: [{name: devices, address: "127.0.0.1:0", hosts: [gw.example]}]
`

// allowAll is the least policy set; it says nothing of enrolment.
const allowAll = `package anteroom.authz

decision := {"allow": true, "reasons": allow, "denials": [], "obligations": []}

allow contains "everything"
`

// template is a state directory as init leaves it, made once and copied: making
// a CA takes long.
var template = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "anteroom-admin-"); err != nil {
		return "", err
	}
	for name, data := range map[string]string{"pass": "a passphrase for tests\n", "anteroom.yaml": text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "policies"), 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "policies", "all.rego"), []byte(allowAll), 0o600); err != nil {
		return "", err
	}
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		return "", err
	}
	_, err = ca.Init(context.Background(), ca.InitConfig{Dir: filepath.Join(dir, "state", CADir), TrustDomain: "hospital.example",
		Organisation: "Test Hospital", Passphrase: []byte("a passphrase for tests")})
	return dir, err
})

// A house is a state directory with a service on it.
type house struct {
	*Service
	t     *testing.T
	dir   string
	state *State
}

func newHouse(t *testing.T) *house {
	t.Helper()
	from, err := template()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyTree(t, from, dir)
	return openHouse(t, dir)
}

// openHouse opens what is in a directory, as the next command does.
func openHouse(t *testing.T, dir string) *house { return openHouseAt(t, dir, time.Now) }

// openHouseAt does it with a clock.
func openHouseAt(t *testing.T, dir string, clock func() time.Time) *house {
	t.Helper()
	cfg, err := config.Load(filepath.Join(dir, "anteroom.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	st, err := OpenState(t.Context(), cfg, log, clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return &house{NewService(Config{State: st, Clock: clock, Logger: log}), t, dir, st}
}

// copyTree copies files as they are on disk: what a process leaves that is
// killed.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a file that was just being replaced
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch dst := filepath.Join(to, rel); {
		case e.IsDir():
			return os.MkdirAll(dst, 0o700)
		case e.Type().IsRegular():
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			return os.WriteFile(dst, data, 0o600)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// killed returns the house as it is after the process was killed now.
func (h *house) killed() *house {
	h.t.Helper()
	dir := h.t.TempDir()
	copyTree(h.t, h.dir, dir)
	return openHouse(h.t, dir)
}

// api returns the API for somebody with roles.
func (h *house) api(roles ...Role) *API { return Local(h.Service, Actor{Name: "jane", Roles: roles}) }

func csr(t testing.TB, name string) []byte {
	t.Helper()
	_, req, err := ca.NewKeyAndCSR(ca.P256, name)
	if err != nil {
		t.Fatal(err)
	}
	return req.Raw
}

func (h *house) enroll(id, class string) *Issued {
	h.t.Helper()
	iss, err := h.api(AllRoles...).Enroll(h.t.Context(), EnrollRequest{Device: device.Record{ID: id, Class: class}, CSR: csr(h.t, id)})
	if err != nil {
		h.t.Fatal(err)
	}
	return iss
}

// events returns the events of the audit log about a device or an operation, in
// their order.
func (h *house) events(f audit.Filter) (out []string) {
	h.t.Helper()
	for e, err := range audit.Read(h.t.Context(), h.state.Config().Audit.Dir, audit.ReadOptions{Filter: f}) {
		if err != nil {
			h.t.Fatal(err)
		}
		out = append(out, e.Event)
	}
	return out
}

// csrOf makes a signing request with a key that is there.
func csrOf(t testing.TB, key crypto.Signer, name string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
