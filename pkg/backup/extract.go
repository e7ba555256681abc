package backup

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// A Plan says what to do with an archive.
type Plan struct {
	// Check is called with the manifest before anything is written.
	Check func(*Manifest) error
	// Parts says where parts go: each into a directory that must not be there. A part
	// without a place is passed over, but read.
	Parts map[string]string

	room func(dir string) (int64, error) // for tests; nil asks the disk
}

// spareDisk is how much of a disk is left free: an archive from somebody else may
// hold, in some kilobytes, more than the disk has, and others write there too.
const spareDisk = 64 << 20

// Extract writes the parts of an archive. When it returns nil everything the
// archive held was read, was whole and is on stable storage. When it returns an
// error, what it has made is gone again.
func Extract(o *Opened, plan Plan) (_ *Manifest, err error) {
	in := tar.NewReader(o)
	m, err := manifest(in)
	if err != nil {
		return nil, err
	}
	if err := plan.Check(m); err != nil {
		return nil, err
	}
	x := extractor{into: map[string]*os.Root{}, room: plan.room}
	if x.room == nil {
		x.room = freeDisk
	}
	defer func() {
		for part, r := range x.into {
			if err == nil {
				err = syncTree(plan.Parts[part])
			}
			_ = r.Close()
		}
		if err != nil {
			for part := range x.into {
				_ = os.RemoveAll(plan.Parts[part])
			}
		}
	}()
	for part, dir := range plan.Parts {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		if x.into[part], err = os.OpenRoot(dir); err != nil {
			return nil, errors.Join(err, os.Remove(dir))
		}
	}
	if err := x.all(in); err != nil {
		return nil, err
	}
	return m, o.end()
}

// manifest reads the first entry.
func manifest(in *tar.Reader) (*Manifest, error) {
	h, err := next(in)
	if err != nil {
		return nil, err
	}
	m := &Manifest{}
	if err := note(in, h, manifestName, m); err != nil {
		return nil, err
	}
	if m.Format != Format {
		return nil, fmt.Errorf("the archive has format %d, and only %d is known: it was made by a later anteroom", m.Format, Format)
	}
	return m, nil
}

// next returns the next entry, which must be one that a [Writer] writes.
func next(in *tar.Reader) (*tar.Header, error) {
	h, err := in.Next()
	if err == io.EOF {
		return nil, fmt.Errorf("%w: it has no end", ErrDamaged)
	}
	if err != nil {
		return nil, damaged(err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("%w: entry %.80q is not a file", ErrDamaged, h.Name)
	}
	if err := checkName(h.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return h, nil
}

// damaged makes an error of what a damaged archive's reader says.
func damaged(err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// note reads one of the entries that are about the others.
func note(in *tar.Reader, h *tar.Header, name string, v any) error {
	if h.Name != name || h.Size > maxNote {
		return fmt.Errorf("%w: %s is missing where it must be", ErrDamaged, name)
	}
	b, err := io.ReadAll(in)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return damaged(fmt.Errorf("%s: %w", name, err))
	}
	return nil
}

// An extractor writes entries.
type extractor struct {
	into    map[string]*os.Root
	room    func(dir string) (int64, error)
	entries int
}

func (x *extractor) all(in *tar.Reader) error {
	for x.entries = 1; ; x.entries++ {
		h, err := next(in)
		if err != nil {
			return err
		}
		if h.Name == endName {
			var e end
			if err := note(in, h, endName, &e); err != nil {
				return err
			}
			if e.Entries != x.entries {
				return fmt.Errorf("%w: it has %d entries, and should have %d", ErrDamaged, x.entries, e.Entries)
			}
			if _, err := in.Next(); err != io.EOF {
				return fmt.Errorf("%w: something follows its end", ErrDamaged)
			}
			return nil
		}
		part, name, ok := strings.Cut(h.Name, "/")
		if !ok || part != Configuration && part != Policies && part != State && part != Audit {
			return fmt.Errorf("%w: entry %.80q belongs to no part", ErrDamaged, h.Name)
		}
		dir, wanted := x.into[part]
		if !wanted {
			if _, err := io.Copy(io.Discard, in); err != nil {
				return damaged(err)
			}
			continue
		}
		if err := x.fits(dir, h.Size); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if err := place(dir, name, in); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// fits refuses a file for which there is no room.
func (x *extractor) fits(dir *os.Root, size int64) error {
	free, err := x.room(dir.Name())
	if err != nil {
		return fmt.Errorf("free space of %s: %w", dir.Name(), err)
	}
	if free-spareDisk < size {
		return fmt.Errorf("it has %d MiB, and %s has %d MiB free, of which %d are kept: make room, or restore to another disk",
			size>>20, dir.Name(), free>>20, spareDisk>>20)
	}
	return nil
}

// place writes one file, which must not be there. The root it is below can not be
// left, whatever the name is and whatever is on the disk.
func place(dir *os.Root, name string, in io.Reader) error {
	if up := path.Dir(name); up != "." {
		if err := dir.MkdirAll(up, 0o700); err != nil {
			return err
		}
	}
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: it is there twice", ErrDamaged)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = damaged(err)
	}
	return errors.Join(err, f.Close())
}
