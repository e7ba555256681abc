package cli

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// rootKey is a root's key, on the machine that the command runs on.
type rootKey struct {
	file       string
	passphrase config.Secret
	constrain  bool
}

func (k *rootKey) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.file, "root-key", "", "file with the root's encrypted key")
	f.StringVar(&k.passphrase.File, "root-passphrase-file", "", "file with its passphrase (default: the CA's passphrase)")
	f.StringVar(&k.passphrase.Env, "root-passphrase-env", "", "environment variable with its passphrase")
	f.BoolVar(&k.constrain, "constrain", false, "put a critical name constraint into the intermediate: URIs of the trust domain only (some devices refuse such a chain)")
}

// read returns the key; other is the passphrase where none is named.
func (k *rootKey) read(other config.Secret) (crypto.Signer, error) {
	from := k.passphrase
	if !from.Set() {
		from = other
	}
	pass, err := from.Read()
	if err != nil {
		return nil, fmt.Errorf("passphrase of the root's key: %w", err)
	}
	defer clear(pass)
	key, err := ca.ReadCAKey(k.file, pass)
	if errors.Is(err, ca.ErrPassphrase) {
		err = fmt.Errorf("%w; --root-passphrase-file names another", err)
	}
	return key, err
}

// sign signs a request with the root, among some, that the key is of.
func (k *rootKey) sign(key crypto.Signer, roots []*x509.Certificate, csr []byte) (*x509.Certificate, error) {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	for _, r := range roots {
		if ok && pub.Equal(r.PublicKey) {
			return ca.SignIntermediate(r, key, csr, k.constrain, time.Now())
		}
	}
	return nil, fmt.Errorf("%s is not the key of a root that is trusted here", k.file)
}

func (a *app) caRotateCommand() *cobra.Command {
	var k rootKey
	var csrOut, certificate string
	c := &cobra.Command{
		Use: "rotate --root-key FILE | --csr-out FILE | --certificate FILE", Short: "Put a new intermediate certificate into use", Args: args(),
		Long: `Put a new intermediate certificate into use: what is issued from then on, it
signs. Certificates that the former one signed stay good, and sessions go on. With
the root's key at hand, --root-key does it in one go; the key is read by this
command and does not reach the gateway. Where the root's key is offline, do it in
three: --csr-out here, ca sign where the key is, --certificate here.`,
		Example: "  anteroom ca rotate --root-key /media/safe/root-ca.key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := 0
			for _, s := range []string{k.file, csrOut, certificate} {
				if s != "" {
					n++
				}
			}
			if n != 1 {
				return usagef("ca rotate: say one of --root-key, --csr-out and --certificate")
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			var key crypto.Signer
			if k.file != "" {
				if key, err = k.read(cfg.CA.Passphrase); err != nil {
					return err
				}
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				switch {
				case csrOut != "":
					return a.prepareRotation(ctx, api, csrOut)
				case certificate != "":
					data, err := readSome(certificate)
					if err != nil {
						return err
					}
					return a.rotate(ctx, api, data)
				}
				p, err := api.PrepareRotation(ctx)
				if err != nil {
					return err
				}
				roots, err := certificates(p.Roots)
				if err != nil {
					return err
				}
				cert, err := k.sign(key, roots, p.CSR)
				if err != nil {
					return err
				}
				return a.rotate(ctx, api, ca.CertPEM(cert))
			})
		},
	}
	k.flags(c)
	c.Flags().StringVar(&csrOut, "csr-out", "", "only make the next intermediate's key, and write what the root has to sign to this file")
	c.Flags().StringVar(&certificate, "certificate", "", "file with the certificate that ca sign made of it")
	return c
}

func (a *app) prepareRotation(ctx context.Context, api *admin.API, out string) error {
	if exists(out) {
		return fmt.Errorf("%s is there already, and nothing is overwritten", out)
	}
	p, err := api.PrepareRotation(ctx)
	if err != nil {
		return err
	}
	if err := durable.Create(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: p.CSR}), 0o644); err != nil {
		return err
	}
	return a.print(map[string]string{"csr": out}, func(w io.Writer) {
		fmt.Fprintf(w, "Wrote %s. Where the root's key is:\n  anteroom ca sign %s --root root-ca.crt --root-key root-ca.key --out intermediate.crt\nthen here:\n  anteroom ca rotate --certificate intermediate.crt\n",
			out, filepath.Base(out))
	})
}

func (a *app) rotate(ctx context.Context, api *admin.API, cert []byte) error {
	c, err := api.Rotate(ctx, admin.CertificateRequest{Certificate: cert})
	if err != nil {
		return err
	}
	return a.print(c, func(w io.Writer) {
		fmt.Fprintf(w, "%s signs from now on, until %s (SHA-256 %s)\n", c.Name, c.NotAfter.Format(time.RFC3339), c.Fingerprint)
	})
}

func (a *app) caSignCommand() *cobra.Command {
	var k rootKey
	var root, out string
	c := &cobra.Command{
		Use: "sign CSR", Short: "Sign an intermediate with the root's key, where that is", Args: args("the signing request"),
		Long: `Sign the certificate of a next intermediate, where the root's key is: it needs
neither a gateway nor a configuration.`,
		Example: "  anteroom ca sign intermediate.csr --root root-ca.crt --root-key root-ca.key --root-passphrase-file pass --out intermediate.crt",
		RunE: func(_ *cobra.Command, arg []string) error {
			for flag, v := range map[string]string{"--root": root, "--root-key": k.file, "--out": out} {
				if v == "" {
					return usagef("ca sign: %s is missing", flag)
				}
			}
			if !k.passphrase.Set() {
				return usagef("ca sign: --root-passphrase-file or --root-passphrase-env is missing")
			}
			csr, err := readSome(arg[0])
			if err != nil {
				return err
			}
			data, err := readSome(root)
			if err != nil {
				return err
			}
			roots, err := certificates(data)
			if err != nil {
				return err
			}
			key, err := k.read(config.Secret{})
			if err != nil {
				return err
			}
			cert, err := k.sign(key, roots, csr)
			if err != nil {
				return err
			}
			if err := durable.Create(out, ca.CertPEM(cert), 0o644); err != nil {
				return err
			}
			return a.print(map[string]string{"certificate": out, "fingerprint": ca.Fingerprint(cert)}, func(w io.Writer) {
				fmt.Fprintf(w, "Wrote %s: %s, until %s (SHA-256 %s)\n", out, cert.Subject.CommonName, cert.NotAfter.Format(time.RFC3339), ca.Fingerprint(cert))
			})
		},
	}
	k.flags(c)
	c.Flags().StringVar(&root, "root", "", "PEM file with the root's certificate")
	c.Flags().StringVar(&out, "out", "", "file to write the certificate to, which must not be there")
	return c
}

func (a *app) caRootCommand() *cobra.Command {
	add := &cobra.Command{
		Use: "add FILE", Short: "Trust a further root, beside those there are", Args: args("the root's certificate"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			data, err := readSome(arg[0])
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				c, err := api.AddRoot(ctx, admin.CertificateRequest{Certificate: data})
				if err != nil {
					return err
				}
				return a.print(c, func(w io.Writer) {
					fmt.Fprintf(w, "%s is trusted beside the others, until %s (SHA-256 %s)\n", c.Name, c.NotAfter.Format(time.RFC3339), c.Fingerprint)
				})
			})
		},
	}
	var yes bool
	remove := &cobra.Command{
		Use: "remove SHA256", Short: "Trust a root no more", Args: args("the root's SHA-256 fingerprint"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if err := a.confirm(yes, "Devices that know no other root will refuse the gateway. Remove it?"); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				c, err := api.RemoveRoot(ctx, strings.ReplaceAll(arg[0], ":", ""))
				var e *admin.Error
				if errors.As(err, &e) && e.Code == admin.CodeNotFound {
					return errors.New("no root with this SHA-256 is trusted; anteroom ca show has them")
				}
				if err != nil {
					return err
				}
				return a.print(c, func(w io.Writer) { fmt.Fprintf(w, "%s is trusted no more\n", c.Name) })
			})
		},
	}
	remove.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return group("root", "The roots that are trusted", a.caNewRootCommand(), add, remove)
}

func (a *app) caNewRootCommand() *cobra.Command {
	var dir, trustDomain, organisation string
	var pass config.Secret
	c := &cobra.Command{
		Use: "new --out DIR", Short: "Make a new root, where its key shall be", Args: args(),
		Long: `Make a new root certificate and its encrypted key, which nobody trusts yet. It
needs neither a gateway nor a configuration: do it where the key shall stay. What
follows is a ceremony; docs/ca-ceremony.md has it step by step.`,
		Example: "  anteroom ca root new --out /media/safe/2041 --trust-domain hospital.example --organisation 'Example Hospital' --passphrase-file pass",
		RunE: func(*cobra.Command, []string) error {
			if dir == "" || !pass.Set() {
				return usagef("ca root new: --out, and --passphrase-file or --passphrase-env, are needed")
			}
			phrase, err := pass.Read()
			if err != nil {
				return err
			}
			defer clear(phrase)
			r, err := ca.NewRoot(trustDomain, organisation, phrase, time.Now())
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			cert, key := filepath.Join(dir, "root-ca.crt"), filepath.Join(dir, "root-ca.key")
			if err := durable.Create(key, r.KeyPEM, 0o600); err != nil {
				return err
			}
			if err := errors.Join(durable.Create(cert, ca.CertPEM(r.Certificate), 0o644), durable.SyncDir(dir)); err != nil {
				return err
			}
			return a.print(map[string]string{"certificate": cert, "key": key, "fingerprint": ca.Fingerprint(r.Certificate)}, func(w io.Writer) {
				fmt.Fprintf(w, "Made %s, until %s\n  %s  certificate, SHA-256 %s\n  %s  key, encrypted: it stays here\n",
					r.Certificate.Subject.CommonName, r.Certificate.NotAfter.Format(time.RFC3339), cert, ca.Fingerprint(r.Certificate), key)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "out", "", "directory for root-ca.crt and root-ca.key, which must not be there")
	f.StringVar(&trustDomain, "trust-domain", "", "the trust domain, as the gateway has it")
	f.StringVar(&organisation, "organisation", "", "the organisation, as the gateway has it")
	f.StringVar(&pass.File, "passphrase-file", "", "file with the passphrase to encrypt the key with")
	f.StringVar(&pass.Env, "passphrase-env", "", "environment variable with that passphrase")
	return c
}
