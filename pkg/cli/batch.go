package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// A batch gives many devices bundles in one directory, and can be cut off at any
// point: run again, it does the rest. A key is on disk before a certificate is
// asked for, and the certificate's file is written last, so that a key without a
// certificate is a bundle that was begun: if the registry says that its device was
// given one for that key, it is given another. Any other key is not used: nothing was
// issued for it, and who can write to the directory, such as a USB stick, may have
// put it there.
type batch struct {
	credentials
	csrs string // directory with signing requests that were made on the devices
	app  *app
	recs map[string]*device.Record // those of the devices it is about
}

// bundled is what became of one device.
type bundled struct {
	ID       string    `json:"id"`
	Serial   string    `json:"serial,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	Files    []string  `json:"files,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// batchResult is what became of all of them.
type batchResult struct {
	Dir     string            `json:"dir"`
	Issued  []bundled         `json:"issued"`
	Failed  []bundled         `json:"failed"`
	Skipped map[string]string `json:"skipped"` // device: why
}

func newBatchResult(dir string) *batchResult {
	return &batchResult{Dir: dir, Issued: []bundled{}, Failed: []bundled{}, Skipped: map[string]string{}}
}

// begin looks at what is asked for before anything is done, and returns the
// devices whose bundles were begun by a run that was cut off.
func (b *batch) begin() (begun []string, err error) {
	if b.csr != "" {
		return nil, usagef("--csr is for one device; --csr-dir holds a signing request for each, ID.csr")
	}
	if (b.p12 || b.legacy) && b.p12Password == "" {
		return nil, usagef("--p12 for many devices needs --p12-password-file")
	}
	if (b.p12 || b.legacy) && b.csrs != "" {
		return nil, usagef("--p12 needs the private keys, which stay where the signing requests were made")
	}
	if _, err := ca.ParseKeyKind(b.key); err != nil {
		return nil, usageError{err}
	}
	if err := b.readPassword(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.out, 0o700); err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	keys, err := filepath.Glob(filepath.Join(b.out, "*.key"))
	if err != nil {
		return nil, err
	}
	for _, path := range keys {
		id := strings.TrimSuffix(filepath.Base(path), ".key")
		if device.ValidID(id) == nil && !b.whole(id) {
			begun = append(begun, id)
		}
	}
	return begun, nil
}

// held reports whether a device was given a certificate for a key.
func (b *batch) held(id string, key crypto.Signer) bool {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	rec := b.recs[id]
	if err != nil || rec == nil {
		return false
	}
	sum := sha256.Sum256(spki)
	return slices.ContainsFunc(rec.Certificates, func(c device.Certificate) bool { return c.Key == hex.EncodeToString(sum[:]) })
}

// stray reports whether the key that is there for a device was never its own.
func (b *batch) stray(id string) bool {
	key, err := ca.ReadKey(b.path(id, ".key"))
	return b.csrs == "" && (err != nil || !b.held(id, key))
}

func (b *batch) path(id, ext string) string { return filepath.Join(b.out, id+ext) }

// whole reports whether a device's bundle is there: its certificate can be read,
// and the key beside it, if there is one, is its.
func (b *batch) whole(id string) bool {
	data, err := os.ReadFile(b.path(id, ".crt"))
	if err != nil {
		return false
	}
	block, _ := pem.Decode(data)
	if block == nil || !bytes.HasSuffix(data, []byte("-----END CERTIFICATE-----\n")) {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	if !exists(b.path(id, ".key")) {
		return true
	}
	key, err := ca.ReadKey(b.path(id, ".key"))
	if err != nil {
		return false
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(cert.PublicKey)
}

// run does it for devices; issue asks for a device's certificate. What fails for
// one keeps no other from its own, but a gateway that does not answer ends it.
func (b *batch) run(ctx context.Context, ids []string, res *batchResult, issue func(id string, csr []byte) (*admin.Issued, error)) error {
	bar := progress{w: b.app.err, on: terminal(b.app.err), total: len(ids)}
	defer bar.done()
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w after %d of %d; running the command again does the rest", err, len(res.Issued), len(ids))
		}
		out, err := b.one(id, issue)
		if err == nil {
			res.Issued = append(res.Issued, *out)
		} else if refused(err) {
			res.Failed = append(res.Failed, bundled{ID: id, Error: err.Error()})
		} else {
			return fmt.Errorf("%s: %w; %d of %d are done, and running the command again does the rest", id, err, len(res.Issued), len(ids))
		}
		bar.step(1)
	}
	return nil
}

// refused reports whether an error is about one device, and not one that the next
// would meet too.
func refused(err error) bool {
	e, ok := errors.AsType[*admin.Error](err)
	return ok && e.Code != admin.CodeInternal && e.Code != admin.CodeForbidden || errors.Is(err, errBundle)
}

// errBundle is wrapped by the errors for files of one device.
var errBundle = errors.New("its bundle")

// one makes a device's bundle.
func (b *batch) one(id string, issue func(id string, csr []byte) (*admin.Issued, error)) (*bundled, error) {
	if b.whole(id) {
		return nil, fmt.Errorf("%w is there already, in %s; choose another --out", errBundle, b.path(id, ".crt"))
	}
	begun := exists(b.path(id, ".key"))
	csr, key, err := b.ask(id)
	if err != nil {
		return nil, err
	}
	iss, err := issue(id, csr)
	if err != nil {
		if key != nil && !begun && refused(err) {
			_ = os.Remove(b.path(id, ".key")) // nothing was issued for it
		}
		return nil, err
	}
	// What a run that was cut off left of these is not whole.
	for _, ext := range []string{".crt", ".p12"} {
		if err := os.Remove(b.path(id, ext)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if path := filepath.Join(b.out, "ca.crt"); torn(path, iss.RootsPEM) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	files, _, err := b.deliver(id, key, iss)
	return &bundled{ID: id, Serial: iss.Serial, NotAfter: iss.NotAfter, Files: files}, err
}

// torn reports whether a file holds the beginning of what it was to hold.
func torn(path string, want []byte) bool {
	got, err := os.ReadFile(path)
	return err == nil && len(got) < len(want) && bytes.HasPrefix(want, got)
}

// ask returns the signing request of a device: its own, or one for the key that is
// on disk when it returns.
func (b *batch) ask(id string) (csr []byte, key crypto.Signer, err error) {
	if b.csrs != "" {
		csr, err = os.ReadFile(filepath.Join(b.csrs, id+".csr"))
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil, fmt.Errorf("%w: there is no signing request %s.csr in %s", errBundle, id, b.csrs)
		}
		return csr, nil, err
	}
	if path := b.path(id, ".key"); exists(path) {
		if key, err = ca.ReadKey(path); err != nil {
			// It was being written when the run was cut off: nothing has it yet.
			if err := os.Remove(path); err != nil {
				return nil, nil, err
			}
			key = nil
		} else if !b.held(id, key) {
			if err := os.Rename(path, path+".unused"); err != nil {
				return nil, nil, err
			}
			key = nil
		}
	}
	if key == nil {
		kind, err := ca.ParseKeyKind(b.key)
		if err != nil {
			return nil, nil, usageError{err}
		}
		if key, err = ca.GenerateKey(kind); err != nil {
			return nil, nil, err
		}
		if err := (&ca.Bundle{Name: id, Key: key}).WriteKey(b.out); err != nil {
			return nil, nil, err
		}
	}
	req, err := ca.NewCSR(key, id)
	if err != nil {
		return nil, nil, err
	}
	return req.Raw, key, nil
}

// report says what became of a batch. What failed fails the command, after the
// others were done.
func (b *batch) report(res *batchResult, verb string) error {
	err := b.app.print(res, func(w io.Writer) { res.print(w, verb) })
	if err == nil && len(res.Failed) > 0 {
		err = silentError{}
	}
	return err
}

func (res *batchResult) print(w io.Writer, verb string) {
	for _, f := range res.Failed {
		fmt.Fprintf(w, "%s: %s\n", f.ID, f.Error)
	}
	var ids []string
	for id := range res.Skipped {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		fmt.Fprintf(w, "%s: passed over: %s\n", id, res.Skipped[id])
	}
	fmt.Fprintf(w, "%s %d, passed over %d, failed %d; bundles are in %s\n", verb, len(res.Issued), len(res.Skipped), len(res.Failed), res.Dir)
}
