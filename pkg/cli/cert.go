package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

func (a *app) certCommand() *cobra.Command {
	return group("cert", "Single certificates of devices", a.certRevokeCommand())
}

func (a *app) certRevokeCommand() *cobra.Command {
	var (
		req admin.WithdrawRequest
		yes bool
	)
	c := &cobra.Command{
		Use: "revoke SERIAL", Short: "Withdraw one certificate for ever; the device's others stay good", Args: args("the certificate's serial number"),
		Long: `Withdraw one certificate for ever. Sessions that were begun with it end at once. The
device stays what it is and may go on with another certificate; to cut it off, revoke
the device. device show has the serial numbers; in hexadecimal, as others show them,
they are written with 0x before them or colons between. A certificate that was renewed
for the same key is another one: if the key is lost, revoke them all.

These reasons are in lists and OCSP answers too: key compromise, affiliation changed,
superseded, cessation of operation, privilege withdrawn.`,
		Example: `  anteroom cert revoke 228395437842356713498561238746 --reason "key compromise"
  anteroom cert revoke 0x2E1F3A --yes`,
		RunE: func(cmd *cobra.Command, arg []string) error {
			req.Serial = arg[0]
			if err := a.confirm(yes, fmt.Sprintf("Revoke certificate %s? This can not be undone.", arg[0])); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				out, err := api.RevokeCertificate(ctx, req)
				if err != nil {
					return err
				}
				return a.print(out, func(w io.Writer) { fmt.Fprintln(w, revokedText(out, time.Now())) })
			})
		},
	}
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the record")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// revokedText says what became of a certificate, and what its device has left.
func revokedText(r *admin.RevokedCertificate, now time.Time) string {
	text := fmt.Sprintf("Certificate %s of %s is revoked", r.Serial, r.Device.ID)
	if r.Before {
		text += ", and was before"
	}
	key := ""
	for _, c := range r.Device.Certificates {
		if c.Serial == r.Serial {
			key = c.Key
		}
	}
	left, same := 0, []string{}
	for _, c := range r.Device.Certificates {
		if !c.RevokedAt.IsZero() || !c.NotAfter.After(now) {
			continue
		}
		if left++; key != "" && c.Key == key {
			same = append(same, c.Serial)
		}
	}
	if r.Device.Status != device.Active {
		return text + fmt.Sprintf("; the device is %s", r.Device.Status)
	}
	text += "; the device is active and has "
	switch {
	case left == 0:
		return text + "no other, so that it can do nothing until it is given one"
	case left == 1 && len(same) == 1:
		// Whoever has the key that was lost can go on with it.
		return text + "1 other, for the same key: " + same[0]
	case left == 1:
		return text + "1 other"
	case len(same) > 0:
		return text + fmt.Sprintf("%d others, of them for the same key: %s", left, strings.Join(same, " "))
	}
	return text + fmt.Sprintf("%d others", left)
}
