package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/backup"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

const rfc3339 = time.RFC3339

// RestoredFile says, in a state directory, that it came from a backup, until
// somebody has seen to what the backup can not know.
const RestoredFile = "restored.json"

// Restored says of which moment a state directory is that came from a backup.
type Restored struct {
	Taken    time.Time `json:"taken"`    // the backup's moment
	Restored time.Time `json:"restored"` // when it was put in place
	Host     string    `json:"host,omitempty"`
	Audit    bool      `json:"audit"` // whether the audit log came with it
}

// Warning says what is not known.
func (r *Restored) Warning() string {
	return fmt.Sprintf("this state was restored from a backup of %s: what was revoked, quarantined or enrolled after that is not known here; "+
		"do it again, then anteroom restore --acknowledge", r.Taken.UTC().Format(rfc3339))
}

// RestoreRequest says what to restore.
type RestoreRequest struct {
	Archive *backup.Opened
	// Root is the SHA-256 fingerprint that one of the CA's roots must have; empty
	// if any will do.
	Root  string
	Clock func() time.Time
}

// Restore puts the state in an archive where the configuration says that state
// is. It overwrites nothing: state directory and audit directory must be absent or
// empty, and the state directory appears whole, as the last step.
//
// One-time tokens are not restored, because one that was used since would be good
// once more.
func Restore(ctx context.Context, cfg *config.File, req RestoreRequest) (_ *backup.Manifest, err error) {
	dir, auditDir := filepath.Clean(cfg.StateDir), filepath.Clean(cfg.Audit.Dir)
	for _, d := range []string{dir, auditDir} {
		if err := absentOrEmpty(d); err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	stage, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".restore-")
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(stage)
	state, auditStage := filepath.Join(stage, "state"), filepath.Join(stage, "audit")
	rel, err := filepath.Rel(dir, auditDir)
	within := err == nil && filepath.IsLocal(rel)
	if !within {
		// Beside its place, because that may be another file system.
		if err := os.MkdirAll(filepath.Dir(auditDir), 0o755); err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
		beside, err := os.MkdirTemp(filepath.Dir(auditDir), "."+filepath.Base(auditDir)+".restore-")
		if err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
		defer os.RemoveAll(beside)
		auditStage = filepath.Join(beside, "audit")
	}
	m, err := backup.Extract(req.Archive, backup.Plan{
		Check: func(m *backup.Manifest) error { return fits(m, cfg, req.Root) },
		Parts: map[string]string{backup.State: state, backup.Audit: auditStage},
	})
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := settle(ctx, state, cfg, m, req.Clock()); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if within {
		if err := put(auditStage, filepath.Join(state, rel)); err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
	} else if err := put(auditStage, auditDir); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := put(state, dir); err != nil {
		if !within {
			err = errors.Join(err, os.RemoveAll(auditDir))
		}
		return nil, fmt.Errorf("restore: %w", err)
	}
	return m, nil
}

// fits refuses an archive of another gateway.
func fits(m *backup.Manifest, cfg *config.File, root string) error {
	if m.TrustDomain != cfg.TrustDomain {
		return fmt.Errorf("the archive is of trust domain %q, and %s is for %q", m.TrustDomain, cfg.Path, cfg.TrustDomain)
	}
	if root == "" {
		return nil
	}
	for _, r := range m.Roots {
		if r == root {
			return nil
		}
	}
	return fmt.Errorf("the archive's CA has another root: %v", m.Roots)
}

// settle makes extracted state one that a gateway opens, and checks that it is
// what the manifest says.
func settle(ctx context.Context, state string, cfg *config.File, m *backup.Manifest, now time.Time) error {
	roots, err := ca.Inspect(filepath.Join(state, CADir), cfg.TrustDomain)
	if err != nil {
		return err
	}
	for i, c := range roots {
		if i >= len(m.Roots) || m.Roots[i] != ca.Fingerprint(c) || len(roots) != len(m.Roots) {
			return errors.New("the archive's CA has other roots than its manifest says")
		}
	}
	if _, err := os.Stat(filepath.Join(state, StoreFile)); err != nil {
		return err
	}
	st, err := bolt.Open(filepath.Join(state, StoreFile))
	if err != nil {
		return err
	}
	// Opening the registry reads every record.
	_, err = device.Open(ctx, st, device.Options{})
	if err == nil {
		err = enrol.WithdrawAll(ctx, st)
	}
	if err = errors.Join(err, st.Close()); err != nil {
		return err
	}
	r := &Restored{Taken: m.Taken, Restored: now.UTC(), Host: m.Host}
	for _, p := range m.Parts {
		r.Audit = r.Audit || p == backup.Audit
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := durable.Create(filepath.Join(state, RestoredFile), b, 0o600); err != nil {
		return err
	}
	return durable.SyncDir(state)
}

// put renames a directory to where nothing is, or an empty one.
func put(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

func absentOrEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is not empty, and nothing is overwritten: move it away first", dir)
}

// Restored returns of which backup the state is, or nil if it is of none or that
// was acknowledged.
func (s *State) Restored() *Restored {
	b, err := os.ReadFile(filepath.Join(s.Config().StateDir, RestoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r := &Restored{}
	if err == nil {
		err = json.Unmarshal(b, r)
	}
	if err != nil {
		// That it can not be read does not make the state a newer one.
		return &Restored{}
	}
	return r
}

// LogValue keeps the form in logs.
func (r *Restored) LogValue() slog.Value { return slog.StringValue(r.Taken.UTC().Format(rfc3339)) }

// AcknowledgeRestore notes that somebody has seen to what was revoked and
// enrolled since the backup.
func (s *Service) AcknowledgeRestore(ctx context.Context, a Actor, _ *struct{}) (*Restored, error) {
	r := s.cfg.State.Restored()
	if r == nil {
		return nil, fmt.Errorf("a restored backup to acknowledge: %w", device.ErrNotFound)
	}
	if err := os.Remove(filepath.Join(s.cfg.State.Config().StateDir, RestoredFile)); err != nil {
		return nil, fmt.Errorf("acknowledge: %w", err)
	}
	return r, s.commit(ctx, a, "restore.acknowledged", nil, protocol.Field{Name: "taken", Value: protocol.String(r.Taken.UTC().Format(rfc3339))})
}
