package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/identity"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

// maxToken bounds what is read as a token.
const maxToken = 256

func (c *command) enrol() func(context.Context) error {
	tokenFile := c.String("token-file", "-", "read the one-time token from `file`; - is standard input")
	root := c.String("root", "", "SHA-256 `fingerprint` of the gateway's root certificate (default: enrolment.root of the configuration)")
	force := c.Bool("force", false, "enrol although there is a certificate that is still good")
	return func(ctx context.Context) error {
		cfg, err := settings.Load(c.config)
		if err != nil {
			return err
		}
		if *root != "" {
			if _, err := settings.Fingerprint(*root); err != nil {
				return fmt.Errorf("--root: %w", err)
			}
			cfg.Enrolment.Root, cfg.Enrolment.CAFile = *root, ""
		}
		store, err := identity.OpenStore(cfg.StateDir, cfg.TPM())
		if err != nil {
			return err
		}
		switch id, err := store.Load(); {
		case err == nil && !*force && time.Now().Before(id.Leaf().NotAfter):
			return fmt.Errorf("%s is enrolled, until %s; --force enrols it anew", id.Device, id.Leaf().NotAfter.Local().Format("2006-01-02 15:04 MST"))
		case err != nil && !errors.Is(err, identity.ErrNone) && !*force:
			return fmt.Errorf("%w (--force enrols anew)", err)
		}
		token, err := c.token(*tokenFile)
		if err != nil {
			return err
		}
		client := &identity.Client{Settings: cfg.Enrolment, Store: store, Clock: time.Now}
		id, err := client.Enrol(ctx, token)
		if said := clockIsWrong(time.Now()); err != nil && said != "" {
			return fmt.Errorf("%w (%s)", err, said)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(c.out, "Enrolled %s, until %s; it renews by itself while anteroom-agent run is running\n",
			id.Device, id.Leaf().NotAfter.Local().Format("2006-01-02 15:04 MST"))
		if id.InTPM() {
			fmt.Fprintf(c.out, "The key was made in the TPM %s and can not leave it\n", cfg.TPM())
		}
		if len(cfg.Reverse) == 0 {
			return nil
		}
		if _, err := store.ServerCertificate(); err != nil {
			return err
		}
		fmt.Fprintf(c.out, "The gateway's backend for this device has ca_file: a copy of %s\n", filepath.Join(cfg.StateDir, identity.CertificateFile))
		return nil
	}
}

// token reads the token: not from the command line, where every process on the
// machine could.
func (c *command) token(path string) (string, error) {
	in := c.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("token: %w", err)
		}
		defer f.Close()
		in = f
	} else {
		fmt.Fprint(c.err, "Token: ")
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxToken)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("token: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("token: there is none; anteroom device token makes one")
	}
	return line, nil
}
