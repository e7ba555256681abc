package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"rsc.io/qr"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/step"
)

func (a *app) tokenCommand() *cobra.Command {
	var (
		req         admin.TokenRequest
		ttl, revoke string
		list, asQR  bool
		forStep     bool
	)
	c := &cobra.Command{
		Use: "token ID | --list | --revoke NAME", Short: "Make a one-time token with which a device enrols by itself",
		Long: `Make a one-time token with which a device enrols by itself, at the enrolment
listener. It is good for this device, once, until it expires, and is shown this
once. Another one for the same device takes its place.`,
		Example: "  anteroom device token pump-0042 --ttl 1h --class infusion-pump --qr",
		RunE: func(cmd *cobra.Command, arg []string) error {
			switch {
			case list && (len(arg) > 0 || revoke != ""), revoke != "" && len(arg) > 0:
				return usagef("device token: an ID, --list and --revoke exclude each other")
			case list:
				return a.listTokens(cmd)
			case revoke != "":
				return a.revokeToken(cmd, revoke)
			}
			if err := args("the device's ID")(cmd, arg); err != nil {
				return err
			}
			req.ID = arg[0]
			if err := device.ValidID(req.ID); err != nil {
				return err
			}
			if req.ACME && (asQR || forStep) {
				return usagef("device token: --acme excludes --qr and --step")
			}
			var err error
			if req.TTL, err = span("--ttl", ttl); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				tok, err := api.Token(ctx, req)
				if err != nil {
					return err
				}
				return a.token(tok, asQR, forStep)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&ttl, "ttl", "1h", "how long it is good, from 1m to 30d")
	f.StringVar(&req.Class, "class", "", "register the device with this class, if it is not in the registry")
	f.BoolVar(&req.Again, "again", false, "for a revoked device that is enrolled anew")
	f.BoolVar(&asQR, "qr", false, "also show it as a QR code")
	f.BoolVar(&forStep, "step", false, "write it as smallstep's step command takes it: step ca certificate ID ID.crt ID.key --token …")
	f.BoolVar(&req.ACME, "acme", false, "write it as ACME clients take it: a directory, and an external account to bind to")
	f.BoolVar(&list, "list", false, "list tokens, without their secrets")
	f.StringVar(&revoke, "revoke", "", "withdraw the token with this name, its first seven characters")
	return c
}

// token shows a new token.
func (a *app) token(tok *admin.Token, asQR, forStep bool) error {
	if forStep {
		if tok.URL == "" {
			return errors.New("--step: the enrolment listener is off (enrolment.address), and step has to know where it is")
		}
		var err error
		if tok.Token, err = step.Token(tok.Token, tok.Device, tok.URL, tok.RootFingerprint, time.Now(), tok.Expires); err != nil {
			return fmt.Errorf("--step: %w", err)
		}
	}
	for _, w := range tok.Warnings {
		fmt.Fprintln(a.err, "anteroom: warning: "+w)
	}
	var code string
	if asQR {
		c, err := qr.Encode(tok.Token, qr.M)
		if err != nil {
			return fmt.Errorf("--qr: %w", err)
		}
		code = blocks(c)
	}
	return a.print(tok, func(w io.Writer) {
		if tok.Registered {
			fmt.Fprintf(w, "Registered %s (%s)\n", tok.Device, tok.Class)
		}
		until := tok.Expires.Local().Format("2006-01-02 15:04 MST")
		if b := tok.ACME; b != nil {
			fmt.Fprintf(w, "An ACME account can be opened for %s once, until %s. Shown this once:\n\n", tok.Device, until)
			fmt.Fprintf(w, "  directory  %s\n  key id     %s\n  HMAC key   %s\n\n", cmp.Or(b.Directory, "(none: the enrolment listener is off)"), b.KeyID, b.HMACKey)
			fmt.Fprintf(w, "The gateway is known by its root certificate, SHA-256 %s\n", tok.RootFingerprint)
			return
		}
		fmt.Fprintf(w, "Token for %s, good once until %s, shown this once:\n\n  %s\n\n", tok.Device, until, tok.Token)
		if code != "" {
			fmt.Fprintln(w, code)
		}
		if tok.URL != "" {
			fmt.Fprintf(w, "The device enrols at %s\n", tok.URL)
		}
		fmt.Fprintf(w, "The gateway is known by its root certificate, SHA-256 %s\n", tok.RootFingerprint)
	})
}

// blocks draws a QR code with two modules to a character, dark on light whatever
// the terminal's colours are, with the quiet zone of ISO/IEC 18004 around it.
func blocks(c *qr.Code) string {
	const quiet = 4
	var b strings.Builder
	for y := -quiet; y < c.Size+quiet; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -quiet; x < c.Size+quiet; x++ {
			switch top, bottom := c.Black(x, y), c.Black(x, y+1); {
			case top && bottom:
				b.WriteString("█")
			case top:
				b.WriteString("▀")
			case bottom:
				b.WriteString("▄")
			default:
				b.WriteString(" ")
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String()
}

func (a *app) listTokens(cmd *cobra.Command) error {
	return a.with(cmd, func(ctx context.Context, api *admin.API) error {
		list, err := api.Tokens(ctx)
		if err != nil {
			return err
		}
		return printList(a, list, "No tokens.", []string{"NAME", "DEVICE", "BY", "EXPIRES", "STATE"}, func(t admin.TokenStatus) []string {
			return []string{t.Name, t.Device, t.By, t.Expires.Format(time.RFC3339), tokenState(&t)}
		})
	})
}

func tokenState(t *admin.TokenStatus) string {
	switch {
	case !t.Used.IsZero():
		return "used " + t.Used.Format(time.RFC3339)
	case time.Now().After(t.Expires):
		return "expired"
	}
	return "good"
}

func (a *app) revokeToken(cmd *cobra.Command, name string) error {
	name = strings.ToUpper(name)
	return a.with(cmd, func(ctx context.Context, api *admin.API) error {
		err := api.RevokeToken(ctx, name)
		var e *admin.Error
		if errors.As(err, &e) && e.Code == admin.CodeNotFound {
			return fmt.Errorf("there is no token with the name %s; anteroom device token --list shows them", name)
		}
		if err != nil {
			return err
		}
		return a.print(map[string]string{"revoked": name}, func(w io.Writer) { fmt.Fprintf(w, "Token %s is withdrawn\n", name) })
	})
}
