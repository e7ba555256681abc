package cli

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	opabundle "github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
)

// signing is where a bundle's signature comes from.
type signing struct{ cert, key, id string }

// maxKeyFile bounds a key or certificate file.
const maxKeyFile = 64 << 10

// signer reads key and certificate.
func (s *signing) signer() (*opabundle.Signer, error) {
	if s.key == "" {
		return nil, usagef("--key is missing: the private key to sign with")
	}
	if s.cert == "" && s.id == "" {
		return nil, usagef("--cert is missing: the certificate of --key")
	}
	out := &opabundle.Signer{KeyID: s.id, Now: time.Now()}
	block, err := readPEM(s.key)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	if out.Key, err = parseKey(block); err != nil {
		return nil, fmt.Errorf("--key: %s: %w", s.key, err)
	}
	if s.cert == "" {
		return out, nil
	}
	if block, err = readPEM(s.cert); err != nil {
		return nil, fmt.Errorf("--cert: %w", err)
	}
	if out.Certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("--cert: %s is not a certificate: %w", s.cert, err)
	}
	if len(out.Certificate.URIs) == 1 {
		out.Issuer = out.Certificate.URIs[0].String()
	}
	return out, nil
}

func readPEM(path string) (*pem.Block, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	return block, nil
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("holds a %s, not a private key", block.Type)
	}
	if err != nil {
		return nil, errors.New("is not a private key that can be read")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("holds a key that can not sign")
	}
	return signer, nil
}

func (a *app) policyBuildCommand() *cobra.Command {
	var out string
	var sig signing
	c := &cobra.Command{
		Use: "build [DIR] -o FILE", Short: "Write a policy set as a bundle that stock OPA loads", Args: optional,
		Long: `Write a policy set as a bundle in OPA's format.

All data becomes one data.json, because OPA takes no other files for data; tests
are left out. With --key the bundle is signed: with --cert the certificate goes
with the signature, with --key-id the key is only named.`,
		Example: `  anteroom policy build policies -o bundle.tar.gz
  anteroom policy build policies -o bundle.tar.gz --key bundle.key --key-id ward-policies`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			if out == "" {
				return usagef("--output is missing: the bundle's file")
			}
			dir, err := a.policyDir(arg)
			if err != nil {
				return err
			}
			src, err := policy.Read(dir, policy.Options{})
			if err != nil {
				return err
			}
			if _, err := src.Compile(cmd.Context(), policy.Options{}); err != nil {
				return err
			}
			b, err := src.Build()
			if err != nil {
				return err
			}
			if sig != (signing{}) {
				s, err := sig.signer()
				if err != nil {
					return err
				}
				if err := b.Sign(*s); err != nil {
					return err
				}
			}
			var buf bytes.Buffer
			if err := b.Write(&buf); err != nil {
				return err
			}
			if err := durable.Replace(out, buf.Bytes(), 0o644); err != nil {
				return fmt.Errorf("write %s: %w", out, err)
			}
			return a.print(map[string]any{"file": out, "revision": b.Manifest.Revision, "files": len(b.Files), "bytes": buf.Len(), "signed": b.Signed()}, func(w io.Writer) {
				how := "not signed"
				if b.Signed() {
					how = "signed"
				}
				fmt.Fprintf(w, "Wrote %s: revision %s, %d files, %d bytes, %s\n", out, b.Manifest.Revision, len(b.Files), buf.Len(), how)
			})
		},
	}
	f := c.Flags()
	f.StringVarP(&out, "output", "o", "", "the file to write")
	f.StringVar(&sig.key, "key", "", "PEM private key to sign with")
	f.StringVar(&sig.cert, "cert", "", "PEM certificate of that key, to go with the signature")
	f.StringVar(&sig.id, "key-id", "", "name of the key, for whoever verifies without certificates")
	return c
}
