package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"

	"github.com/smallstep/pkcs7"
	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

func (a *app) caExportCommand() *cobra.Command {
	var chain bool
	var format, out, password string
	c := &cobra.Command{
		Use: "export", Short: "Print the root certificates, as devices and backends need them", Args: args(),
		Long: `Print the root certificates that are trusted, or with --chain the intermediates and
them, the issuing one first. The formats are pem, der (of one certificate only), pkcs7
(.p7b, Windows) and pkcs12 (a trust store, Java).`,
		Example: `  anteroom ca export > root-ca.crt
  anteroom ca export --format pkcs12 --password-file pass --out hospital.p12`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				certs, err := api.Authority(ctx)
				if err != nil {
					return err
				}
				var picked []admin.AuthorityCertificate
				var list []*x509.Certificate
				for _, c := range certs {
					if c.Root || chain {
						picked = append(picked, c)
						parsed, err := certificates([]byte(c.PEM))
						if err != nil {
							return err
						}
						list = append(list, parsed...)
					}
				}
				if a.json && out == "" {
					return a.print(picked, nil)
				}
				data, err := exported(list, format, password)
				if err != nil {
					return err
				}
				if out == "" {
					_, err := a.out.Write(data)
					return err
				}
				if err := durable.Replace(out, data, 0o644); err != nil {
					return err
				}
				return a.print(picked, func(w io.Writer) { fmt.Fprintf(w, "Wrote %s: %d certificates\n", out, len(list)) })
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&chain, "chain", false, "the intermediate certificates too")
	f.StringVar(&format, "format", "pem", "pem, der, pkcs7 or pkcs12")
	f.StringVar(&out, "out", "", "write it to this file, in place of the one that is there")
	f.StringVar(&password, "password-file", "", "pkcs12: file with the trust store's password, which protects nothing secret")
	return c
}

// exported writes certificates in a format.
func exported(list []*x509.Certificate, format, password string) ([]byte, error) {
	switch format {
	case "pem":
		return ca.CertPEM(list...), nil
	case "der":
		if len(list) != 1 {
			return nil, fmt.Errorf("--format der holds one certificate, and there are %d: take pkcs7", len(list))
		}
		return list[0].Raw, nil
	case "pkcs7":
		var raw []byte
		for _, c := range list {
			raw = append(raw, c.Raw...)
		}
		return pkcs7.DegenerateCertificate(raw)
	case "pkcs12":
		if password == "" {
			return nil, usagef("ca export: --format pkcs12 needs --password-file")
		}
		pass, err := config.Secret{File: password}.Read()
		if err != nil {
			return nil, err
		}
		return ca.TrustStore(list, string(pass))
	}
	return nil, usagef("ca export: no such format: %q (there are pem, der, pkcs7 and pkcs12)", format)
}

func (a *app) caVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify [CERTIFICATE]", Short: "Check the CA's certificates, keys and revocation lists, and a certificate of it", Args: optional,
		Long: `Check everything of the CA: that each certificate chains to a root, is for this
trust domain and may do what it is for, that each key is its certificate's and signs,
when each ends, and that each revocation list is signed and fresh. With the file of a
certificate, check that too: whose it is, and whether it is good here.`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			var req admin.VerifyRequest
			if len(arg) == 1 {
				var err error
				if req.Certificate, err = readSome(arg[0]); err != nil {
					return err
				}
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				found, err := api.VerifyAuthority(ctx, req)
				if err != nil {
					return err
				}
				wrong := 0
				for _, f := range found {
					if f.Error != "" {
						wrong++
					}
				}
				err = a.print(found, func(w io.Writer) {
					for _, f := range found {
						switch {
						case f.Error != "":
							fmt.Fprintf(w, "FAIL  %s: %s\n", f.What, f.Error)
						case f.Warn:
							fmt.Fprintf(w, "WARN  %s: %s\n", f.What, f.Note)
						case f.Note != "":
							fmt.Fprintf(w, "ok    %s (%s)\n", f.What, f.Note)
						default:
							fmt.Fprintf(w, "ok    %s\n", f.What)
						}
					}
				})
				if err == nil && wrong > 0 {
					err = fmt.Errorf("%d of %d checks failed", wrong, len(found))
				}
				return err
			})
		},
	}
}
