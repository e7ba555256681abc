package backup

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
)

const (
	// MinPassphrase is the shortest passphrase of an archive, in bytes. It can be
	// guessed at for as long as anybody likes.
	MinPassphrase = 12
	// workFactor is the cost of one guess at a passphrase, as a power of two: 256 MiB
	// and about a second. An archive that asks for more is refused rather than
	// obeyed: it would take the memory of the machine.
	workFactor = 18
)

// ErrKey says that a passphrase or private key does not open an archive.
var ErrKey = errors.New("it does not open the archive")

// ErrDamaged is wrapped by every error that says an archive is not as it was
// written: changed, cut off, or none at all.
var ErrDamaged = errors.New("the archive is damaged or cut off")

// To are whom an archive is encrypted to: public keys, or a passphrase.
type To struct {
	Recipients []string // age1…
	Passphrase []byte

	work int // for tests; 0 means workFactor
}

func (t *To) recipients() ([]age.Recipient, error) {
	switch {
	case len(t.Recipients) > 0 && len(t.Passphrase) > 0:
		return nil, errors.New("an archive is encrypted to public keys or to a passphrase, not to both")
	case len(t.Recipients) > 0:
		var out []age.Recipient
		for i, text := range t.Recipients {
			rs, err := age.ParseRecipients(strings.NewReader(text))
			if err != nil || len(rs) != 1 {
				// It is not repeated: it may be a private key.
				return nil, fmt.Errorf("recipient %d is no public key of age (age1…)", i+1)
			}
			out = append(out, rs...)
		}
		return out, nil
	case len(t.Passphrase) < MinPassphrase:
		return nil, fmt.Errorf("the archive's passphrase is shorter than %d characters", MinPassphrase)
	}
	r, err := age.NewScryptRecipient(string(t.Passphrase))
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(cmp.Or(t.work, workFactor))
	return []age.Recipient{r}, nil
}

// A Sealer compresses and encrypts what is written to it.
type Sealer struct {
	gzip *gzip.Writer
	age  io.WriteCloser
}

// Seal begins an encrypted archive on w. Without [Sealer.Close] it is cut off, and
// can not be opened.
func Seal(w io.Writer, to To) (*Sealer, error) {
	rs, err := to.recipients()
	if err != nil {
		return nil, err
	}
	enc, err := age.Encrypt(w, rs...)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	// Empty pages and JSON shrink to a tenth at the least effort too.
	z, err := gzip.NewWriterLevel(enc, gzip.BestSpeed)
	return &Sealer{z, enc}, err
}

func (s *Sealer) Write(b []byte) (int, error) { return s.gzip.Write(b) }

// Close ends the archive. It does not close what it is written to.
func (s *Sealer) Close() error {
	return errors.Join(s.gzip.Close(), s.age.Close())
}

// With is what opens an archive: private keys as age-keygen writes them, or a
// passphrase.
type With struct {
	Identities []byte
	Passphrase []byte
}

func (w *With) identities() ([]age.Identity, error) {
	if len(w.Identities) > 0 {
		ids, err := age.ParseIdentities(strings.NewReader(string(w.Identities)))
		if err != nil {
			return nil, errors.New("the file holds no private key of age (AGE-SECRET-KEY-1…)")
		}
		return ids, nil
	}
	id, err := age.NewScryptIdentity(string(w.Passphrase))
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(workFactor)
	return []age.Identity{id}, nil
}

// An Opened archive is read in plain.
type Opened struct {
	plain *bufio.Reader // between age and gzip
	gzip  *gzip.Reader
}

// Open begins to decrypt an archive.
func Open(r io.Reader, with With) (*Opened, error) {
	ids, err := with.identities()
	if err != nil {
		return nil, err
	}
	dec, err := age.Decrypt(r, ids...)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		switch byPassphrase := slices.Contains(none.StanzaTypes, "scrypt"); {
		case byPassphrase && len(with.Identities) > 0:
			return nil, fmt.Errorf("a private key: %w, which was encrypted to a passphrase", ErrKey)
		case !byPassphrase && len(with.Identities) == 0:
			return nil, fmt.Errorf("a passphrase: %w, which was encrypted to public keys", ErrKey)
		case byPassphrase:
			return nil, fmt.Errorf("the passphrase: %w", ErrKey)
		}
		return nil, fmt.Errorf("the private key: %w", ErrKey)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	// Gzip takes no more of it than is its own, so that what follows is seen.
	o := &Opened{plain: bufio.NewReader(dec)}
	if o.gzip, err = gzip.NewReader(o.plain); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	o.gzip.Multistream(false)
	return o, nil
}

func (o *Opened) Read(b []byte) (int, error) {
	n, err := o.gzip.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, err
}

// end reads what is left, which must be no more than padding, to where age says
// that this was all of it.
func (o *Opened) end() error {
	const padding = 64 << 10
	if n, err := io.CopyN(io.Discard, o, padding); err != io.EOF {
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: more than %d bytes follow its end", ErrDamaged, n)
	}
	if _, err := o.plain.ReadByte(); err != io.EOF {
		if err == nil {
			err = errors.New("something follows its end")
		}
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
