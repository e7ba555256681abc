package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/identity"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

// firstYear is when this program was written: a clock that says less is wrong.
const firstYear = 2026

// clockIsWrong says what is wrong with a clock that can only be wrong, or "".
func clockIsWrong(now time.Time) string {
	if now.Year() >= firstYear {
		return ""
	}
	return fmt.Sprintf("this machine's clock says %s, and every certificate is not valid yet to it: set the clock", now.UTC().Format(time.RFC3339))
}

func (c *command) check() func(context.Context) error {
	offline := c.Bool("offline", false, "do not connect to the gateway")
	return func(ctx context.Context) error {
		cfg, err := settings.Load(c.config)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.out, "%s is good\n", c.config)
		if said := clockIsWrong(time.Now()); said != "" {
			fmt.Fprintf(c.out, "warning: %s\n", said)
		}
		for _, f := range cfg.Forward {
			if a, err := netip.ParseAddrPort(f.Listen); err == nil && a.Addr().IsUnspecified() {
				fmt.Fprintf(c.out, "warning: %s listens on every address in plain text; name the one of the device's link\n", f.Name)
			}
		}
		store, err := identity.OpenStore(cfg.StateDir, cfg.TPM())
		if err != nil {
			return err
		}
		holder, err := store.Hold(time.Now)
		if err != nil {
			return err
		}
		id := holder.Current()
		fmt.Fprintf(c.out, "%s has a certificate until %s, its key is in %s\n", id.Device, id.Leaf().NotAfter.UTC().Format(time.RFC3339), place(id, cfg))
		if id.InTPM() != (cfg.TPM() != "") {
			fmt.Fprintf(c.out, "warning: the configuration has keys in %s; the next certificate's will be, and anteroom-agent enrol --force gets one now\n", cfg.Key)
		}
		if !time.Now().Before(id.Leaf().NotAfter) {
			return errors.New("the certificate has expired: enrol with a new token")
		}
		if *offline {
			return nil
		}
		failed := false
		for _, f := range cfg.Forward {
			if err := c.reach(ctx, holder, f); err != nil {
				failed = true
				fmt.Fprintf(c.out, "%s: %s: %v\n", f.Name, f.Gateway, err)
				continue
			}
			fmt.Fprintf(c.out, "%s: %s takes the certificate\n", f.Name, f.Gateway)
		}
		if failed {
			return errors.New("not every listener of the gateway can be reached")
		}
		return nil
	}
}

// place says where a device's key is.
func place(id *identity.Identity, cfg *settings.File) string {
	if id.InTPM() {
		return "the TPM " + cfg.TPM()
	}
	return "a file"
}

// refuseTime is how long a listener has to say that it does not take a
// certificate: in TLS 1.3 it says so after the handshake.
const refuseTime = 500 * time.Millisecond

func (c *command) reach(ctx context.Context, holder *identity.Holder, f settings.Forward) error {
	ctx, cancel := context.WithTimeout(ctx, f.Connect.D())
	defer cancel()
	cfg, err := holder.Config(&identity.Peer{Name: f.ServerName, CAFile: f.CAFile})
	if err != nil {
		return err
	}
	d := tls.Dialer{Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", f.Gateway)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(refuseTime))
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.As(err, new(net.Error)) {
		return err
	} else if ne, ok := errors.AsType[net.Error](err); ok && !ne.Timeout() {
		return err
	}
	return nil
}
