package admin

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/backup"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// ageKeys are what the archives of these tests are encrypted with.
var ageKeys = sync.OnceValue(func() *age.X25519Identity {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		panic(err)
	}
	return id
})

// takeBackup takes a backup through an API, and returns the encrypted archive.
func takeBackup(ctx context.Context, api *API, req BackupRequest) ([]byte, *Backup, error) {
	var out bytes.Buffer
	z, err := backup.Seal(&out, backup.To{Recipients: []string{ageKeys().Recipient().String()}})
	if err != nil {
		return nil, nil, err
	}
	b, err := api.Backup(ctx, req, z)
	if err != nil {
		return nil, nil, err
	}
	err = z.Close()
	return out.Bytes(), b, err
}

// opened opens an archive.
func opened(t *testing.T, data []byte) *backup.Opened {
	t.Helper()
	o, err := backup.Open(bytes.NewReader(data), backup.With{Identities: []byte(ageKeys().String())})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// elsewhere is a directory with the configuration of a house and nothing else,
// as a new machine has it.
func (h *house) elsewhere(edit ...string) (dir string, cfg *config.File) {
	h.t.Helper()
	dir = h.t.TempDir()
	text := strings.NewReplacer(edit...).Replace(text)
	for name, data := range map[string]string{"pass": "a passphrase for tests\n", "anteroom.yaml": text, "policies/all.rego": allowAll} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	cfg, err := config.Load(filepath.Join(dir, "anteroom.yaml"))
	if err != nil {
		h.t.Fatal(err)
	}
	return dir, cfg
}

// TestABackupTakenWhileDevicesEnrolIsConsistent: enrolments and revocations go
// on, backups are taken through the socket, and each restores to a state in which
// everything that was acknowledged before it is, and registry and CA agree.
func TestABackupTakenWhileDevicesEnrolIsConsistent(t *testing.T) {
	h := newHouse(t)
	socket := filepath.Join(h.dir, "s")
	srv, err := Listen(socket, h.Service, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	api, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()

	stop := make(chan struct{})
	var enrolled, revoked atomic.Int64
	var busy sync.WaitGroup
	busy.Go(func() {
		for i := int64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			id := fmt.Sprintf("pump-%d", i)
			if _, err := api.Enroll(t.Context(), EnrollRequest{Device: device.Record{ID: id, Class: "infusion-pump"}, CSR: csr(t, id)}); err != nil {
				t.Error(err)
				return
			}
			enrolled.Store(i + 1)
			if i%2 == 1 {
				continue
			}
			if _, err := api.SetStatus(t.Context(), StatusRequest{ID: id, To: device.Revoked, Reason: "test"}); err != nil {
				t.Error(err)
				return
			}
			revoked.Store(i + 1)
		}
	})
	type taken struct {
		data              []byte
		enrolled, revoked int64
	}
	var all []taken
	for range 3 {
		for before := enrolled.Load(); enrolled.Load() < before+5 && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		b := taken{enrolled: enrolled.Load(), revoked: revoked.Load()}
		var report *Backup
		if b.data, report, err = takeBackup(t.Context(), api, BackupRequest{}); err != nil {
			t.Fatal(err)
		}
		if n := report.Manifest.Devices[string(device.Active)] + report.Manifest.Devices[string(device.Revoked)]; int64(n) < b.enrolled {
			t.Errorf("the manifest counts %d devices, and %d were there", n, b.enrolled)
		}
		all = append(all, b)
	}
	close(stop)
	busy.Wait()
	if left, _ := filepath.Glob(filepath.Join(h.dir, "state", ".backup-*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	for _, b := range all {
		dir, cfg := h.elsewhere()
		m, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, b.data), Clock: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		r := openHouse(t, dir)
		for i := range b.enrolled {
			rec, ok := r.state.Devices.Get(fmt.Sprintf("pump-%d", i))
			if !ok {
				t.Fatalf("pump-%d was enrolled before the backup of %d, and is gone", i, b.enrolled)
			}
			if i < b.revoked && i%2 == 0 && rec.Status != device.Revoked {
				t.Errorf("pump-%d was revoked before the backup, and is %s", i, rec.Status)
			}
		}
		for _, rec := range r.state.Devices.List(device.Filter{}) {
			for _, c := range rec.Certificates {
				s, err := r.state.CA.Status(t.Context(), c.Serial)
				if err != nil || s.Certificate == nil {
					t.Fatalf("%s has a certificate that the CA does not know: %v", rec.ID, err)
				}
				// The registry is first: the CA may lack what was just under way, and is
				// told before the next list is signed.
				if s.Revoked && rec.Status != device.Revoked {
					t.Errorf("the CA has %s revoked, the registry as %s", rec.ID, rec.Status)
				}
			}
		}
		if _, err := r.state.Revocations.List(t.Context(), r.state.CA.Original()); err != nil {
			t.Error(err)
		}
		if _, err := audit.Verify(t.Context(), cfg.Audit.Dir, audit.VerifyOptions{}); err != nil {
			t.Error(err)
		}
		st, err := r.api(Viewer).Status(t.Context())
		if err != nil || st.Restored == nil || !st.Restored.Taken.Equal(m.Taken) || !strings.Contains(strings.Join(st.Warnings, "\n"), "is not known here") {
			t.Errorf("the status does not say that it was restored: %+v %v", st, err)
		}
		// It goes on from there.
		r.enroll("pump-new", "infusion-pump")
	}
}

func TestARestoreIsToldOfUntilItIsAcknowledged(t *testing.T) {
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	data, _, err := takeBackup(t.Context(), h.api(AllRoles...), BackupRequest{WithoutAudit: true})
	if err != nil {
		t.Fatal(err)
	}
	dir, cfg := h.elsewhere()
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data), Clock: time.Now}); err != nil {
		t.Fatal(err)
	}
	r := openHouse(t, dir)
	again := r.killed()
	if again.state.Restored() == nil {
		t.Error("it is forgotten after a restart")
	}
	if _, err := again.api(Viewer, Enroller, Auditor).AcknowledgeRestore(t.Context()); err == nil {
		t.Error("acknowledged without the role")
	}
	if _, err := again.api(SecurityOfficer).AcknowledgeRestore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, err := again.api(Viewer).Status(t.Context()); err != nil || st.Restored != nil || len(st.Warnings) > 0 {
		t.Errorf("%+v %v", st, err)
	}
	if got := again.events(audit.Filter{Event: "restore.acknowledged"}); len(got) != 1 {
		t.Errorf("recorded as %v", got)
	}
	if _, err := again.api(SecurityOfficer).AcknowledgeRestore(t.Context()); err == nil {
		t.Error("acknowledged twice")
	}
}

// A token or an approval that was used after the backup would be good once more.
func TestTokensAreNotRestored(t *testing.T) {
	h := newHouse(t)
	if _, err := h.api(AllRoles...).Import(t.Context(), ImportRequest{Devices: []device.Record{{ID: "pump-2", Class: "infusion-pump", Manufacturer: "Acme", Serial: "1"}}}); err != nil {
		t.Fatal(err)
	}
	if out, err := h.api(AllRoles...).Approve(t.Context(), ApproveRequest{IDs: []string{"pump-2"}}); err != nil || len(out) != 1 || out[0].Outcome != Approved {
		t.Fatalf("%+v %v", out, err)
	}
	if _, err := h.api(AllRoles...).Token(t.Context(), TokenRequest{ID: "pump-1", Class: "infusion-pump", TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	data, _, err := takeBackup(t.Context(), h.api(AllRoles...), BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	dir, cfg := h.elsewhere()
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data), Clock: time.Now}); err != nil {
		t.Fatal(err)
	}
	r := openHouse(t, dir)
	if list, err := r.api(Viewer).Tokens(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%+v %v", list, err)
	}
	if list, err := r.api(Viewer).Waiting(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("approvals came back: %+v %v", list, err)
	}
	was, err := os.ReadFile(filepath.Join(h.dir, "state", TokenKey))
	if err != nil {
		t.Fatal(err)
	}
	if is, err := os.ReadFile(filepath.Join(dir, "state", TokenKey)); err != nil || bytes.Equal(was, is) {
		t.Errorf("the key of tokens came back: %v", err)
	}
}

func TestWhatDoesNotFitIsNotRestored(t *testing.T) {
	h := newHouse(t)
	// More than encryption's chunks of 64 KiB, so that a cut is met half way.
	large := make([]byte, 300<<10)
	if _, err := rand.Read(large); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "state", "large"), large, 0o600); err != nil {
		t.Fatal(err)
	}
	data, b, err := takeBackup(t.Context(), h.api(AllRoles...), BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(what string, dir string) {
		t.Helper()
		left, _ := filepath.Glob(filepath.Join(dir, ".*restore*"))
		if state, err := os.ReadDir(filepath.Join(dir, "state")); err == nil && len(state) > 0 {
			left = append(left, "state")
		}
		if len(left) > 0 {
			t.Errorf("%s: %v is left", what, left)
		}
	}
	dir, cfg := h.elsewhere("trust_domain: hospital.example", "trust_domain: clinic.example")
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data), Clock: time.Now}); err == nil || !strings.Contains(err.Error(), `"hospital.example"`) {
		t.Errorf("another trust domain: %v", err)
	}
	nothing("another trust domain", dir)

	dir, cfg = h.elsewhere()
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data), Root: strings.Repeat("0", 64), Clock: time.Now}); err == nil || !strings.Contains(err.Error(), "another root") {
		t.Errorf("another root: %v", err)
	}
	nothing("another root", dir)
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data[:len(data)-100]), Clock: time.Now}); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("cut off: %v", err)
	}
	nothing("cut off", dir)
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data), Root: b.Manifest.Roots[0], Clock: time.Now}); err != nil {
		t.Errorf("the right root: %v", err)
	}
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data), Clock: time.Now}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("into what is there: %v", err)
	}

	dir, cfg = h.elsewhere("listeners:", "audit: {dir: log/audit}\nlisteners:")
	if err := os.MkdirAll(filepath.Join(dir, "log", "audit", "records"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data), Clock: time.Now}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("over an audit log: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, data), Clock: time.Now}); err != nil {
		t.Errorf("an audit log elsewhere: %v", err)
	}
	if _, err := audit.Verify(t.Context(), filepath.Join(dir, "log", "audit"), audit.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

// The manifest says one thing and the CA inside another: whoever has the public
// key can write such an archive.
func TestAnArchiveWhoseManifestLiesIsRefused(t *testing.T) {
	h := newHouse(t)
	inside := t.TempDir()
	if _, err := ca.Init(t.Context(), ca.InitConfig{Dir: filepath.Join(inside, "ca"), TrustDomain: "evil.example", Organisation: "Evil", Passphrase: []byte("a passphrase for tests")}); err != nil {
		t.Fatal(err)
	}
	for what, dir := range map[string]string{"another trust domain": filepath.Join(inside, "ca"), "other roots": filepath.Join(h.dir, "state", "ca"), "nothing": t.TempDir()} {
		var out bytes.Buffer
		z, err := backup.Seal(&out, backup.To{Recipients: []string{ageKeys().Recipient().String()}})
		if err != nil {
			t.Fatal(err)
		}
		w, err := backup.NewWriter(z, &backup.Manifest{Format: backup.Format, TrustDomain: "hospital.example", Roots: []string{strings.Repeat("0", 64)}})
		if err == nil {
			err = archiveTree(t.Context(), w, "state/ca", dir, nil)
		}
		if err := errors.Join(err, w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		new, cfg := h.elsewhere()
		if m, err := Restore(t.Context(), cfg, RestoreRequest{Archive: opened(t, out.Bytes()), Clock: time.Now}); err == nil {
			t.Errorf("%s: restored %+v", what, m)
		}
		if left, _ := filepath.Glob(filepath.Join(new, "*state*")); len(left) > 0 {
			t.Errorf("%s: %v is left", what, left)
		}
	}
}

func TestABackupNeedsItsRoleAndIsRecorded(t *testing.T) {
	h := newHouse(t)
	if _, _, err := takeBackup(t.Context(), h.api(Viewer, Enroller, PolicyAuthor, Auditor), BackupRequest{}); err == nil || !strings.Contains(err.Error(), "security-officer") {
		t.Errorf("without the role: %v", err)
	}
	if _, _, err := takeBackup(t.Context(), h.api(SecurityOfficer), BackupRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := h.events(audit.Filter{Operator: "jane"}); strings.Join(got, " ") != "operator.request backup.taken" {
		t.Errorf("recorded as %v", got)
	}
}

// Whoever reads too slowly, or goes away, holds nothing up and leaves nothing.
func TestABackupNobodyReadsHoldsNothingUp(t *testing.T) {
	h := newHouse(t)
	h.enroll("pump-1", "infusion-pump")
	in, out := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := h.api(SecurityOfficer).Backup(t.Context(), BackupRequest{}, out)
		done <- err
	}()
	if _, err := io.ReadFull(in, make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	h.enroll("pump-2", "infusion-pump")
	if _, err := h.api(AllRoles...).SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: device.Revoked}); err != nil {
		t.Error(err)
	}
	if _, _, err := takeBackup(t.Context(), h.api(SecurityOfficer), BackupRequest{}); err == nil || !strings.Contains(err.Error(), "another backup") {
		t.Errorf("a second one: %v", err)
	}
	in.CloseWithError(errors.New("gone"))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a backup that nobody read: %v", err)
	}
	if _, _, err := takeBackup(t.Context(), h.api(SecurityOfficer), BackupRequest{}); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if got := h.events(audit.Filter{Event: "operator.failed"}); len(got) != 2 {
		t.Errorf("%d failures are recorded", len(got))
	}
}

// The passphrase of the CA, tokens' key and the gateway's own TLS keys are not in
// an archive, and the CA's key is as it rests: encrypted.
func TestWhatAnArchiveHolds(t *testing.T) {
	h := newHouse(t)
	for name, data := range map[string]string{CertDir + "/x.key": "secret of certmagic", SCEPFile: "-----BEGIN PRIVATE KEY-----", "policy-bundle/b.tar.gz": "a bundle", "pass": "never"} {
		name = filepath.Join(h.dir, "state", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var plain bytes.Buffer
	if _, err := h.api(SecurityOfficer).Backup(t.Context(), BackupRequest{}, &plain); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(h.dir, "state", TokenKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"secret of certmagic", "a passphrase for tests", strings.TrimSpace(string(key)), "BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY"} {
		if bytes.Contains(plain.Bytes(), []byte(secret)) {
			t.Errorf("it holds %.20q", secret)
		}
	}
	for _, there := range []string{"BEGIN ENCRYPTED PRIVATE KEY", "state/policy-bundle/b.tar.gz", "policies/all.rego", "config/anteroom.yaml", "audit/log/checkpoint", "state/registry.db", "state/ca/ca.db"} {
		if !bytes.Contains(plain.Bytes(), []byte(there)) {
			t.Errorf("it lacks %q", there)
		}
	}
}
