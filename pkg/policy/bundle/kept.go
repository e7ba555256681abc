package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

const (
	keptFile = "bundle.json"
	// maxKept bounds bundle.json.
	maxKept = 64 << 10
)

// kept is what is in bundle.json: which archive is the last good one.
type kept struct {
	URL  string `json:"url"`
	ETag string `json:"etag,omitempty"`
	// Digest is the SHA-256 of the archive in hex, by which it is named.
	Digest   string    `json:"digest"`
	Bytes    int       `json:"bytes"`
	Fetched  time.Time `json:"fetched"`
	IssuedAt time.Time `json:"issued_at,omitzero"`
}

func (k *kept) path(dir string) string { return filepath.Join(dir, k.Digest+".tar.gz") }

// readKept returns the last good archive, or nil if there is none.
func readKept(dir string, lim Limits) (*kept, []byte, error) {
	path := filepath.Join(dir, keptFile)
	body, err := readLimited(path, maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("policy bundle: %w", err)
	}
	k := &kept{}
	if err := json.Unmarshal(body, k); err != nil {
		return nil, nil, fmt.Errorf("policy bundle: %s is damaged: %w", path, err)
	}
	if raw, err := hex.DecodeString(k.Digest); err != nil || len(raw) != sha256.Size {
		return nil, nil, fmt.Errorf("policy bundle: %s is damaged", path)
	}
	archive, err := readLimited(k.path(dir), lim.Archive())
	if err != nil {
		return nil, nil, fmt.Errorf("policy bundle: %w", err)
	}
	if sum := sha256.Sum256(archive); hex.EncodeToString(sum[:]) != k.Digest {
		return nil, nil, fmt.Errorf("policy bundle: %s is damaged", k.path(dir))
	}
	return k, archive, nil
}

// Kept returns the bundle that is kept in dir, or nil if there is none. It is for
// whoever looks at what is in force: nothing is decided by it, and its signature
// is not verified again.
func Kept(dir string, lim Limits) (*Bundle, error) {
	_, archive, err := readKept(dir, lim)
	if err != nil || archive == nil {
		return nil, err
	}
	return Read(bytes.NewReader(archive), lim)
}

// writeKept makes an archive the last good one. A crash leaves the one or the
// other.
func writeKept(dir string, k kept, archive []byte) error {
	body, err := json.MarshalIndent(k, "", " ")
	if err != nil {
		return err
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	if archive != nil {
		if err := durable.Replace(k.path(dir), archive, fileMode); err != nil {
			return err
		}
	}
	if err := durable.Replace(filepath.Join(dir, keptFile), append(body, '\n'), fileMode); err != nil {
		return err
	}
	// Former ones take room and no more.
	names, _ := os.ReadDir(dir)
	for _, d := range names {
		if n := d.Name(); n != k.Digest+".tar.gz" && (strings.HasSuffix(n, ".tar.gz") || strings.HasPrefix(n, durable.TempPrefix)) {
			_ = os.Remove(filepath.Join(dir, n))
		}
	}
	return nil
}
