package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
	"github.com/anteroom-iomt/anteroom/pkg/yield"
)

// Names inside the audit directory.
const (
	lockName         = "lock"
	keyName          = "log.key"
	publicName       = "log.pub"
	pseudonymName    = "pseudonym.key"
	recordsName      = "records"
	logName          = "log"
	tornName         = "torn"
	segmentEnding    = ".jsonl"
	dirMode          = 0o700
	fileMode         = 0o600
	pseudonymKeySize = 32
)

// A disk is what the writer needs of the file system under the records. Tests
// have one that fails.
type disk interface {
	// open opens a segment to be written from size on, creating it, durably, if
	// it is not there.
	open(segment string) (file, error)
	// free returns how many bytes the file system has left for us.
	free() (uint64, error)
}

// A file is an open segment.
type file interface {
	WriteAt(b []byte, at int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// osDisk is the disk below dir, the directory of segments.
type osDisk struct{ dir string }

func (d osDisk) open(segment string) (file, error) {
	p := filepath.Join(d.dir, segment+segmentEnding)
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	if err := durable.SyncDir(d.dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return yield.NewFile(f), nil
}

func (d osDisk) free() (uint64, error) { return FreeSpace(d.dir) }

// FreeSpace returns how many bytes the file system of a directory has left, as
// the log counts them when it looks whether min_free is left.
func FreeSpace(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// lockDir takes the directory's lock, which ends with the process at the
// latest. Closing the file releases it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("audit directory %s is in use by another process, most likely a running gateway", dir)
		}
		return nil, fmt.Errorf("lock audit directory %s: %w", dir, err)
	}
	return f, nil
}

// segments returns the names of the segments below dir, an audit directory, in
// order, and of anything else that lies among them.
func segments(dir string) (names, strangers []string, err error) {
	es, err := os.ReadDir(filepath.Join(dir, recordsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, e := range es {
		n, ok := strings.CutSuffix(e.Name(), segmentEnding)
		if _, isSeq := segmentSeq(n); ok && isSeq && e.Type().IsRegular() {
			names = append(names, n)
		} else {
			strangers = append(strangers, e.Name())
		}
	}
	slices.Sort(names)
	return names, strangers, nil
}

// segmentPath returns where the segment lies in the audit directory dir.
func segmentPath(dir, segment string) string {
	return filepath.Join(dir, recordsName, segment+segmentEnding)
}
