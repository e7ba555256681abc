package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/backup"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// unsealing says what opens an archive.
type unsealing struct {
	identity   string
	passphrase config.Secret
}

func (a *app) withKey(u *unsealing) (with backup.With, err error) {
	if u.identity != "" {
		with.Identities, err = readSome(u.identity)
		return with, err
	}
	with.Passphrase, err = a.archivePassphrase(u.passphrase, "--identity", false)
	return with, err
}

func (a *app) restoreCommand() *cobra.Command {
	var u unsealing
	var root, configTo string
	var check, acknowledge bool
	c := &cobra.Command{
		Use: "restore FILE | --acknowledge", Short: "Put the state of a backup in place",
		Long: `Put the state in a backup where the configuration says that state is. Nothing is
overwritten: the state directory must be absent or empty, and it appears whole or not
at all. An archive of another trust domain, or one that is damaged or cut off, is
refused.

A restored gateway knows every revocation that was made before the backup, and
none that was made after it. It says so in its status until somebody has made them
again and says --acknowledge.`,
		Example: "  anteroom restore /backup/anteroom-2026-11-26.age --identity key.txt --config /etc/anteroom/anteroom.yaml",
		RunE: func(cmd *cobra.Command, arg []string) error {
			if acknowledge {
				if len(arg) > 0 {
					return usagef("restore: FILE and --acknowledge exclude each other")
				}
				return a.acknowledgeRestore(cmd)
			}
			if err := args("the archive")(cmd, arg); err != nil {
				return err
			}
			with, err := a.withKey(&u)
			if err != nil {
				return err
			}
			switch {
			case check && configTo != "":
				return usagef("restore: --check and --config-to exclude each other")
			case check:
				return a.checkArchive(arg[0], with)
			case configTo != "":
				return a.restoreConfig(arg[0], with, configTo)
			}
			return a.restore(cmd.Context(), arg[0], with, root)
		},
	}
	f := c.Flags()
	f.StringVar(&u.identity, "identity", "", "file with the private key of age that the archive was encrypted to")
	passphraseFlags(c, &u.passphrase)
	f.StringVar(&root, "root", "", "PEM file with the root certificate that the CA in the archive must have")
	f.StringVar(&configTo, "config-to", "", "only write the configuration and the policies in the archive to this directory, which must be absent or empty")
	f.BoolVar(&check, "check", false, "only read the archive, and say whether it is whole and what it holds")
	f.BoolVar(&acknowledge, "acknowledge", false, "say that what was revoked and enrolled after the backup was seen to")
	return c
}

// archive opens an archive; "-" is standard input.
func (a *app) archive(name string, with backup.With, f func(*backup.Opened) error) error {
	in := a.in
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	o, err := backup.Open(in, with)
	if err != nil {
		return err
	}
	return f(o)
}

func (a *app) restore(ctx context.Context, name string, with backup.With, root string) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	req := admin.RestoreRequest{Clock: time.Now}
	if root != "" {
		data, err := readSome(root)
		if err != nil {
			return err
		}
		certs, err := certificates(data)
		if err != nil || len(certs) != 1 {
			return fmt.Errorf("--root: %s does not hold one certificate", root)
		}
		req.Root = ca.Fingerprint(certs[0])
	}
	var m *backup.Manifest
	err = a.archive(name, with, func(o *backup.Opened) (err error) {
		req.Archive = o
		m, err = admin.Restore(ctx, cfg, req)
		return err
	})
	if err != nil {
		return err
	}
	return a.print(map[string]any{"state_dir": cfg.StateDir, "manifest": m}, func(w io.Writer) {
		fmt.Fprintf(w, "Restored %s as of %s to %s: %s\n", m.TrustDomain, m.Taken.Format(time.RFC3339), cfg.StateDir, counts(m.Devices))
		fmt.Fprintf(w, "The CA's root has the SHA-256 %s: compare it with what devices have\n", strings.Join(m.Roots, ", "))
		if !slices.Contains(m.Parts, backup.Audit) {
			fmt.Fprintln(w, "The audit log was not in the archive: another begins")
		}
		fmt.Fprintf(w, "\nNot known here: what was revoked, quarantined or enrolled after %s. One-time tokens are withdrawn.\n\nNext:\n", m.Taken.Format(time.RFC3339))
		if _, err := cfg.CA.Passphrase.Read(); err != nil {
			fmt.Fprintf(w, "  the CA's passphrase, which is in no backup: %v\n", err)
		}
		fmt.Fprintf(w, "  anteroom check --config %[1]s\n  anteroom run --config %[1]s\n  anteroom device revoke … for what was revoked since, then anteroom restore --acknowledge --config %[1]s\n", cfg.Path)
	})
}

func (a *app) checkArchive(name string, with backup.With) error {
	var m *backup.Manifest
	err := a.archive(name, with, func(o *backup.Opened) (err error) {
		m, err = backup.Extract(o, backup.Plan{Check: func(*backup.Manifest) error { return nil }})
		return err
	})
	if err != nil {
		return err
	}
	return a.print(m, func(w io.Writer) {
		fmt.Fprintf(w, "%s is whole: %s as of %s, by %s on %s; %s; holds %s\n", name, m.TrustDomain, m.Taken.Format(time.RFC3339), m.Version, m.Host,
			counts(m.Devices), strings.Join(m.Parts, ", "))
	})
}

// restoreConfig writes what of an archive is not state.
func (a *app) restoreConfig(name string, with backup.With, dir string) (err error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty, and nothing is overwritten", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	undo, err := makeDir(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	stage := filepath.Join(dir, ".config")
	file, policies := filepath.Join(dir, "anteroom.yaml"), filepath.Join(dir, "policies")
	err = a.archive(name, with, func(o *backup.Opened) error {
		_, err := backup.Extract(o, backup.Plan{
			Check: func(*backup.Manifest) error { return nil },
			Parts: map[string]string{backup.Configuration: stage, backup.Policies: policies},
		})
		return err
	})
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(stage, "anteroom.yaml"), file); err != nil {
		return errors.Join(err, os.RemoveAll(stage), os.RemoveAll(policies))
	}
	if err := os.Remove(stage); err != nil {
		return err
	}
	return a.print(map[string]string{"config": file, "policies": policies}, func(w io.Writer) {
		fmt.Fprintf(w, "Wrote %s and %s. Paths and secrets that the configuration names are not in a backup: look it over, then\n  anteroom restore %s --config %s\n", file, policies, name, file)
	})
}

func (a *app) acknowledgeRestore(cmd *cobra.Command) error {
	return a.with(cmd, func(ctx context.Context, api *admin.API) error {
		r, err := api.AcknowledgeRestore(ctx)
		var e *admin.Error
		if errors.As(err, &e) && e.Code == admin.CodeNotFound {
			return errors.New("there is no restored backup to acknowledge")
		}
		if err != nil {
			return err
		}
		return a.print(r, func(w io.Writer) {
			fmt.Fprintf(w, "Acknowledged: the backup of %s is the state from here on\n", r.Taken.Format(time.RFC3339))
		})
	})
}
