package backup

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Format is the only format there is so far.
const Format = 1

const (
	manifestName = "manifest.json"
	endName      = "end.json"
	// maxNote bounds the two entries that are about the others.
	maxNote = 64 << 10
	// maxName bounds an entry's path. The audit log's longest have 60 bytes.
	maxName = 512
	// fileMode is the mode of every entry: all of it is the owner's business.
	fileMode = 0o600
)

// The parts of an archive.
const (
	Configuration = "config"
	Policies      = "policies"
	State         = "state"
	Audit         = "audit"
)

// A Manifest says what an archive holds.
type Manifest struct {
	Format      int       `json:"format"`
	TrustDomain string    `json:"trust_domain"`
	Version     string    `json:"version,omitempty"` // of the program that wrote it
	Host        string    `json:"host,omitempty"`
	Taken       time.Time `json:"taken"` // the moment whose state it is
	// Roots are the SHA-256 fingerprints of the CA's roots, in lower-case hex.
	Roots []string `json:"roots"`
	// Devices counts devices by status.
	Devices map[string]int `json:"devices"`
	// Parts are those that are in it.
	Parts []string `json:"parts"`
}

// An end is the last entry.
type end struct {
	Entries int `json:"entries"`
}

// A Writer writes a plain archive. It is not safe for concurrent use.
type Writer struct {
	tar     *tar.Writer
	taken   time.Time
	entries int
}

// NewWriter begins an archive.
func NewWriter(w io.Writer, m *Manifest) (*Writer, error) {
	out := &Writer{tar: tar.NewWriter(w), taken: m.Taken.UTC().Truncate(time.Second)}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return out, out.Bytes(manifestName, b)
}

// On has the rest of the archive written elsewhere. What was written so far is
// complete there.
func (w *Writer) On(to io.Writer) error {
	if err := w.tar.Flush(); err != nil {
		return err
	}
	w.tar = tar.NewWriter(to)
	return nil
}

// Bytes adds an entry.
func (w *Writer) Bytes(name string, data []byte) error {
	return w.Stream(name, int64(len(data)), bytes.NewReader(data))
}

// Stream adds an entry of so many bytes of r, which must have them.
func (w *Writer) Stream(name string, size int64, r io.Reader) error {
	return w.Write(name, size, func(to io.Writer) error {
		n, err := io.CopyN(to, r, size)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("it has %d bytes, and %d were there a moment ago", n, size)
		}
		return err
	})
}

// Write adds an entry of so many bytes, which f writes.
func (w *Writer) Write(name string, size int64, f func(io.Writer) error) error {
	err := checkName(name)
	if err == nil {
		err = w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: fileMode, ModTime: w.taken, Format: tar.FormatPAX})
	}
	if err == nil {
		err = f(w.tar)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w.entries++
	return nil
}

// Close ends the archive.
func (w *Writer) Close() error {
	b, err := json.Marshal(end{w.entries})
	if err != nil {
		return err
	}
	return errors.Join(w.Bytes(endName, b), w.tar.Close())
}

// checkName accepts the one spelling of a path below here.
func checkName(name string) error {
	if name == "" || len(name) > maxName || name != path.Clean(name) || path.IsAbs(name) || name == "." || name == ".." || strings.HasPrefix(name, "../") {
		return fmt.Errorf("%.80q is no path within an archive", name)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }) {
		return fmt.Errorf("%.80q is no path within an archive: it has characters that can not be seen", name)
	}
	return nil
}
