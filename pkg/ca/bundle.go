package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// A P12Form is a choice of PKCS#12 encryption.
type P12Form string

const (
	// P12Modern is AES-256 with PBKDF2-HMAC-SHA256 and an HMAC-SHA256 (OpenSSL
	// 1.1.0, Java 8u301, Windows Server 2019 and later read it).
	P12Modern P12Form = "modern"
	// P12Legacy is Triple DES with HMAC-SHA1, for devices that read nothing
	// else. It protects little: move such a file by a trusted way only.
	P12Legacy P12Form = "legacy"
)

// A Bundle is what a device or operator is handed: a private key, its
// certificate chain, and the roots to check the gateway against. It exists for
// as long as it takes to write it to files.
type Bundle struct {
	Name  string        // of the files; a valid id
	Key   crypto.Signer // nil if the key stayed where it was made
	Chain []*x509.Certificate
	Roots []*x509.Certificate
}

// LogValue keeps keys out of logs.
func (b *Bundle) LogValue() slog.Value { return slog.StringValue("bundle of " + b.Name) }

// String keeps keys out of everything else that prints.
func (b *Bundle) String() string { return "bundle of " + b.Name }

// PKCS12 returns key, chain and roots in one encrypted PKCS#12 file.
func (b *Bundle) PKCS12(password string, form P12Form) ([]byte, error) {
	if b.Key == nil {
		return nil, errors.New("encode PKCS#12: the private key is not here")
	}
	if len(b.Chain) == 0 {
		return nil, errors.New("encode PKCS#12: no certificate")
	}
	if password == "" {
		return nil, errors.New("encode PKCS#12: the password is empty")
	}
	var enc *pkcs12.Encoder
	switch form {
	case P12Modern, "":
		enc = pkcs12.Modern2023
	case P12Legacy:
		enc = pkcs12.LegacyDES
	default:
		return nil, fmt.Errorf("encode PKCS#12: no such form: %q", form)
	}
	others := append(append([]*x509.Certificate(nil), b.Chain[1:]...), b.Roots...)
	out, err := enc.Encode(b.Key, b.Chain[0], others, password)
	if err != nil {
		return nil, fmt.Errorf("encode PKCS#12: %w", err)
	}
	return out, nil
}

// P12Options asks [Bundle.WriteFiles] for a PKCS#12 file.
type P12Options struct {
	Password string
	Form     P12Form
}

// WriteKey writes the key's file, <name>.key, into a directory, which is made if it
// is not there, and returns when it is on stable storage. Who does it before asking
// for a certificate can ask again for the same key, whatever is cut off: see
// [ReadKey].
func (b *Bundle) WriteKey(dir string) error {
	if err := device.ValidID(b.Name); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	data, err := KeyPEM(b.Key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	if err := durable.Create(filepath.Join(dir, b.Name+".key"), data, keyMode); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return durable.SyncDir(dir)
}

// ReadKey reads what [Bundle.WriteKey] wrote.
func ReadKey(path string) (crypto.Signer, error) {
	data, err := readLimited(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%s is not one private key in PEM form", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s is a %T, which cannot sign", path, key)
	}
	return signer, nil
}

// WriteFiles writes a bundle into a directory, which is made if it is not
// there: <name>.key (PKCS#8, 0600), <name>.crt (the chain), <name>.p12 if asked for
// (0600) and ca.crt (the roots). Nothing is overwritten; a key or a ca.crt with the
// same content may be there. Either all files are written, and on stable storage
// when it returns, or none stays but those that were there. The chain is written
// last: where it is whole, so is everything else. It returns their paths.
func (b *Bundle) WriteFiles(dir string, p12 *P12Options) (paths []string, err error) {
	if err := device.ValidID(b.Name); err != nil {
		return nil, fmt.Errorf("write certificate files: %w", err)
	}
	files, err := b.files(p12)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("write certificate files: %w", err)
	}
	var made []string
	defer func() {
		if err != nil {
			for _, p := range made {
				_ = os.Remove(p)
			}
		}
	}()
	write := func(f *file) error {
		path := filepath.Join(dir, f.name)
		switch err := durable.Create(path, f.data, f.mode); {
		case err == nil:
			made = append(made, path)
		case f.same && errors.Is(err, fs.ErrExist) && sameContent(path, f.data):
		default:
			return fmt.Errorf("write certificate files: %w", err)
		}
		return nil
	}
	var chain *file
	for i := range files {
		paths = append(paths, filepath.Join(dir, files[i].name))
		if files[i].last {
			chain = &files[i]
		} else if err := write(&files[i]); err != nil {
			return nil, err
		}
	}
	if err := write(chain); err != nil {
		return nil, err
	}
	if err := durable.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("write certificate files: %w", err)
	}
	return paths, nil
}

// A file is one of a bundle's.
type file struct {
	name string
	data []byte
	mode fs.FileMode
	same bool // it may be there with this content
	last bool // it is written last
}

// files returns the files of a bundle in the order in which they are named.
func (b *Bundle) files(p12 *P12Options) (files []file, err error) {
	if b.Key != nil {
		data, err := KeyPEM(b.Key)
		if err != nil {
			return nil, err
		}
		files = append(files, file{b.Name + ".key", data, keyMode, true, false})
	}
	files = append(files, file{b.Name + ".crt", certPEM(b.Chain...), certMode, false, true})
	if p12 != nil {
		data, err := b.PKCS12(p12.Password, p12.Form)
		if err != nil {
			return nil, err
		}
		files = append(files, file{b.Name + ".p12", data, keyMode, false, false})
	}
	return append(files, file{"ca.crt", certPEM(b.Roots...), certMode, true, false}), nil
}

func sameContent(path string, want []byte) bool {
	got, err := readLimited(path)
	return err == nil && bytes.Equal(got, want)
}
