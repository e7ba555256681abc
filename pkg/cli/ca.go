package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
)

func (a *app) caCommand() *cobra.Command {
	return group("ca", "The embedded certificate authority", a.caShowCommand(), a.caExportCommand())
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

func (a *app) caExportCommand() *cobra.Command {
	var chain bool
	c := &cobra.Command{
		Use: "export", Short: "Print the root certificate, as devices and backends need it", Args: args(),
		Example: "  anteroom ca export > root-ca.crt",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				certs, err := api.Authority(ctx)
				if err != nil {
					return err
				}
				var out []admin.AuthorityCertificate
				for _, c := range certs {
					if c.Root || chain {
						out = append(out, c)
					}
				}
				return a.print(out, func(w io.Writer) {
					for _, c := range out {
						fmt.Fprint(w, c.PEM)
					}
				})
			})
		},
	}
	c.Flags().BoolVar(&chain, "chain", false, "the intermediate certificates too")
	return c
}
