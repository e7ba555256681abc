package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

func (a *app) caCommand() *cobra.Command {
	return group("ca", "The embedded certificate authority", a.caShowCommand(), a.caExportCommand(), a.caVerifyCommand(), a.caCRLCommand(),
		a.caRotateCommand(), a.caSignCommand(), a.caRootCommand())
}

func (a *app) caShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the CA's certificates", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				certs, err := api.Authority(ctx)
				if err != nil {
					return err
				}
				return a.print(certs, func(w io.Writer) {
					for _, c := range certs {
						fmt.Fprintf(w, "%s, valid until %s (%s), SHA-256 %s\n", c.Name, c.NotAfter.Format(time.RFC3339), left(c.NotAfter, time.Now()), c.Fingerprint)
					}
				})
			})
		},
	}
}

func (a *app) caCRLCommand() *cobra.Command {
	var out, issuer string
	c := &cobra.Command{
		Use: "crl", Short: "Print the list of revoked certificates", Args: args(),
		Long: `Print the list of revoked certificates in PEM form, signed by the CA, for
whoever checks certificates of this gateway and is not the gateway. A list is
valid for revocation.next_update of the configuration.`,
		Example: "  anteroom ca crl --out /srv/pki/ca.crl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				l, err := api.RevocationList(ctx, admin.ListOf{Issuer: issuer})
				if err != nil {
					return err
				}
				if out != "" {
					if err := durable.Replace(out, []byte(l.PEM), 0o644); err != nil {
						return err
					}
				}
				return a.print(l, func(w io.Writer) {
					if out == "" {
						fmt.Fprint(w, l.PEM)
						return
					}
					fmt.Fprintf(w, "Wrote list %d to %s: %d revoked certificates, valid until %s\n", l.Number, out, l.Entries, l.NextUpdate.Format(time.RFC3339))
				})
			})
		},
	}
	c.Flags().StringVar(&issuer, "issuer", "", "of a former intermediate's certificates: the last eight digits of its name (default: of the issuing one's)")
	c.Flags().StringVar(&out, "out", "", "write it to this file, in place of the one that is there")
	return c
}
