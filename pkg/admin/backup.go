package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/anteroom-iomt/anteroom/pkg/backup"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// BackupRequest asks for a backup.
type BackupRequest struct {
	// WithoutAudit leaves the audit log out, keys and all. A gateway that is
	// restored then begins another log.
	WithoutAudit bool `json:"without_audit,omitempty"`
}

// A Backup is one that was taken.
type Backup struct {
	Manifest backup.Manifest `json:"manifest"`
	Bytes    int64           `json:"bytes"` // of the plain archive
}

// Files of the state directory that are in no backup. Tokens are worth nothing
// without their key, and so none that was used since is good once more; the
// gateway's own keys, of TLS and of SCEP, rest bare and are made anew.
var notBackedUp = []string{StoreFile, CADir, CertDir, SocketName, TokenKey, SCEPFile, RestoredFile}

// spareDisk is how much of the disk a backup leaves free beside what the audit log
// wants: without space that log takes no records, and the gateway stops.
const spareDisk = 64 << 20

// Backup writes the state of one moment as a plain archive; who asked encrypts
// it. What is small or changes is copied within the state directory first, so that a
// slow reader holds nothing up but its own backup. The audit log, which only
// grows, is read as it is sent, and so may go on a little longer.
func (s *Service) Backup(ctx context.Context, a Actor, req *BackupRequest, w io.Writer) (*Backup, error) {
	if !s.backing.TryLock() {
		return nil, bundle.Conflict("another backup is being taken")
	}
	defer s.backing.Unlock()
	out := &Backup{}
	n := &counter{w: w}
	err := s.backup(ctx, req, out, n)
	if out.Bytes = n.n; err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return out, s.commit(ctx, a, "backup.taken", nil,
		protocol.Field{Name: "taken", Value: protocol.String(out.Manifest.Taken.Format(rfc3339))},
		protocol.Field{Name: "bytes", Value: protocol.String(strconv.FormatInt(out.Bytes, 10))})
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (s *Service) backup(ctx context.Context, req *BackupRequest, out *Backup, w io.Writer) error {
	st := s.cfg.State
	spool, err := os.CreateTemp(st.Config().StateDir, ".backup-")
	if err != nil {
		return err
	}
	defer spool.Close() // it has no name, so nothing is left of it
	if err := os.Remove(spool.Name()); err != nil {
		return err
	}
	b, err := s.still(ctx, req, out, spool)
	if err != nil {
		return err
	}
	if err := b.On(w); err != nil {
		return err
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(w, spool); err != nil {
		return err
	}
	if !req.WithoutAudit {
		if err := s.cfg.State.Audit.Flush(ctx); err != nil {
			return err
		}
		if err := archiveLog(ctx, b, st.Config().Audit.Dir); err != nil {
			return err
		}
	}
	return b.Close()
}

// still writes everything but the audit log to the spool, as it is at one moment.
func (s *Service) still(ctx context.Context, req *BackupRequest, out *Backup, spool *os.File) (b *backup.Writer, err error) {
	st := s.cfg.State
	cfg := st.Config()
	db, ok := st.Store.(interface {
		Snapshot() (*bolt.Snapshot, error)
	})
	if !ok {
		return nil, errors.New("the registry is in a database with backups of its own")
	}
	// What is in force must not change while its files are copied.
	s.policies.Lock()
	defer s.policies.Unlock()
	if err := s.roomFor(spool, db); err != nil {
		return nil, err
	}
	var registry *bolt.Snapshot
	defer func() {
		if registry != nil {
			err = errors.Join(err, registry.Close())
		}
	}()
	at := func() (err error) {
		// CA and registry at one moment: nothing is issued or revoked during it.
		if registry, err = db.Snapshot(); err != nil {
			return err
		}
		m := &out.Manifest
		*m = backup.Manifest{Format: backup.Format, TrustDomain: cfg.TrustDomain, Version: s.cfg.Version, Taken: s.cfg.Clock().UTC(), Devices: map[string]int{}}
		m.Host, _ = os.Hostname()
		for _, c := range st.CA.Roots() {
			sum := sha256.Sum256(c.Raw)
			m.Roots = append(m.Roots, hex.EncodeToString(sum[:]))
		}
		for status, n := range st.Devices.Counts() {
			m.Devices[string(status)] = n
		}
		m.Parts = []string{backup.Configuration, backup.Policies, backup.State}
		if !req.WithoutAudit {
			m.Parts = append(m.Parts, backup.Audit)
		}
		b, err = backup.NewWriter(spool, m)
		return err
	}
	if err := st.CA.CopyTo(ctx, at, func(name string, size int64, r io.Reader) error {
		return b.Stream(path.Join(backup.State, CADir, name), size, r)
	}); err != nil {
		return nil, err
	}
	if err := b.Write(path.Join(backup.State, StoreFile), registry.Size(), func(w io.Writer) error {
		_, err := registry.WriteTo(w)
		return err
	}); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(cfg.Path)
	if err != nil {
		return nil, err
	}
	if err := b.Bytes(path.Join(backup.Configuration, "anteroom.yaml"), text); err != nil {
		return nil, err
	}
	if err := archiveTree(ctx, b, backup.Policies, cfg.Policy.Enforce, nil); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return b, archiveTree(ctx, b, backup.State, cfg.StateDir, func(rel string) bool {
		return slices.Contains(notBackedUp, rel) || strings.HasPrefix(path.Base(rel), ".") || filepath.Join(cfg.StateDir, rel) == filepath.Clean(cfg.Audit.Dir)
	})
}

// roomFor refuses a backup whose copy would leave the audit log too little disk.
func (s *Service) roomFor(spool *os.File, db interface {
	Snapshot() (*bolt.Snapshot, error)
}) error {
	snap, err := db.Snapshot()
	if err != nil {
		return err
	}
	need := snap.Size() + int64(s.cfg.State.Config().Audit.MinFree) + spareDisk
	if err := snap.Close(); err != nil {
		return err
	}
	size, err := s.cfg.State.CA.Size()
	if err != nil {
		return err
	}
	need += size
	var disk syscall.Statfs_t
	if err := syscall.Fstatfs(int(spool.Fd()), &disk); err != nil {
		return fmt.Errorf("free space of %s: %w", s.cfg.State.Config().StateDir, err)
	}
	if free := int64(disk.Bavail) * int64(disk.Bsize); free < need {
		return fmt.Errorf("%s has %d MiB free, and a copy of the state to read from needs %d: the audit log must not run out of disk over a backup",
			s.cfg.State.Config().StateDir, free>>20, need>>20)
	}
	return nil
}

// archiveTree adds the files below a directory, in order of their names. Links and
// sockets are none.
func archiveTree(ctx context.Context, b *backup.Writer, part, dir string, skip func(rel string) bool) error {
	return filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if rel != "." && skip != nil && skip(rel) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() {
			return ctx.Err()
		}
		return archiveFile(b, path.Join(part, rel), name)
	})
}

func archiveFile(b *backup.Writer, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return b.Stream(name, st.Size(), f)
}

// archiveLog adds the audit log while it is written. Its transparency log comes
// first, the checkpoint and its state before the tiles, and the records last: each
// is then at least as long as what was read before says, and what is longer is what
// a crash leaves too, which opening it puts right.
func archiveLog(ctx context.Context, b *backup.Writer, dir string) error {
	first := []string{"log.key", "log.pub", "pseudonym.key", "log/checkpoint", "log/.state/version", "log/.state/treeState"}
	done := map[string]bool{"lock": true}
	add := func(rel string) error {
		err := archiveFile(b, path.Join(backup.Audit, rel), filepath.Join(dir, filepath.FromSlash(rel)))
		if err == nil {
			done[rel] = true
		}
		return err
	}
	for _, rel := range first {
		if err := add(rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, part := range []string{"log", "torn", "records"} {
		err := filepath.WalkDir(filepath.Join(dir, part), func(name string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !e.Type().IsRegular() {
				return errors.Join(err, ctx.Err())
			}
			rel, err := filepath.Rel(dir, name)
			if err != nil {
				return err
			}
			if rel = filepath.ToSlash(rel); done[rel] || strings.HasSuffix(rel, ".lock") {
				return nil
			}
			err = archiveFile(b, path.Join(backup.Audit, rel), name)
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			// A tile that was not full has become so, and is another file now.
			if full, _, ok := strings.Cut(rel, ".p/"); ok && !done[full] {
				if err = add(full); errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
