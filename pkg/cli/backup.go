package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/backup"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// maxKeys bounds a file of public or private keys of age.
const maxKeys = 1 << 20

// sealing says what an archive is encrypted to.
type sealing struct {
	recipients []string
	file       string
	passphrase config.Secret
}

func (s *sealing) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&s.recipients, "recipient", nil, "public key of age (age1…) to encrypt to; may be repeated")
	f.StringVar(&s.file, "recipients-file", "", "file with public keys of age, one a line")
	passphraseFlags(c, &s.passphrase)
}

func passphraseFlags(c *cobra.Command, p *config.Secret) {
	f := c.Flags()
	f.StringVar(&p.File, "passphrase-file", "", "file with the archive's passphrase")
	f.StringVar(&p.Env, "passphrase-env", "", "environment variable with the archive's passphrase")
}

func (a *app) to(s *sealing) (to backup.To, err error) {
	to.Recipients = s.recipients
	if s.file != "" {
		b, err := readSome(s.file)
		if err != nil {
			return to, err
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				to.Recipients = append(to.Recipients, line)
			}
		}
		if len(to.Recipients) == 0 {
			return to, fmt.Errorf("%s holds no public key", s.file)
		}
	}
	if len(to.Recipients) > 0 && !s.passphrase.Set() {
		return to, nil
	}
	to.Passphrase, err = a.archivePassphrase(s.passphrase, "--recipient", true)
	return to, err
}

// archivePassphrase returns the passphrase that flags name, or asks for it.
func (a *app) archivePassphrase(p config.Secret, other string, twice bool) ([]byte, error) {
	if p.Set() {
		return p.Read()
	}
	if !terminal(a.in) {
		return nil, usagef("say with %s, --passphrase-file or --passphrase-env what the archive is encrypted to", other)
	}
	ask := func(text string) ([]byte, error) {
		fmt.Fprint(a.err, text+": ")
		defer fmt.Fprintln(a.err)
		return term.ReadPassword(int(a.in.(*os.File).Fd()))
	}
	pass, err := ask("Passphrase of the archive")
	if err != nil || !twice {
		return pass, err
	}
	again, err := ask("Once more")
	if err == nil && !bytes.Equal(pass, again) {
		err = errors.New("the two passphrases differ")
	}
	return pass, err
}

func readSome(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeys+1))
	if err == nil && len(b) > maxKeys {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxKeys)
	}
	return b, err
}

func (a *app) backupCommand() *cobra.Command {
	var s sealing
	var req admin.BackupRequest
	var out string
	c := &cobra.Command{
		Use: "backup --out FILE", Short: "Write the gateway's state to one encrypted file", Args: args(),
		Long: `Write the state of this moment to one encrypted file: CA, registry, policies,
configuration and audit log. The gateway goes on as it does. The archive is
encrypted with age, to public keys whose private halves are kept elsewhere, or to a
passphrase. The CA's keys in it are encrypted once more, as they rest; their
passphrase is not in it, and neither are one-time tokens and the gateway's own keys
of TLS and SCEP, which are made anew.`,
		Example: "  anteroom backup --out /backup/anteroom-2026-11-26.age --recipients-file /etc/anteroom/backup-keys.txt",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return usagef("backup: --out is missing (a file, or - for standard output)")
			}
			to, err := a.to(&s)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error { return a.backup(ctx, api, req, to, out) })
		},
	}
	s.flags(c)
	c.Flags().StringVar(&out, "out", "", "the file to write, which must not be there; - is standard output")
	c.Flags().BoolVar(&req.WithoutAudit, "without-audit", false, "leave the audit log out: a restored gateway begins another")
	return c
}

func (a *app) backup(ctx context.Context, api *admin.API, req admin.BackupRequest, to backup.To, out string) error {
	var res *admin.Backup
	var size int64
	write := func(w io.Writer) (err error) {
		n := &sizer{w: w, bar: bytesShown{w: a.err, on: terminal(a.err)}}
		defer func() { size = n.n; n.bar.done() }()
		z, err := backup.Seal(n, to)
		if err != nil {
			return err
		}
		if res, err = api.Backup(ctx, req, z); err != nil {
			return err
		}
		return z.Close()
	}
	if out == "-" {
		if terminal(a.out) {
			return usagef("backup: an archive is not for a terminal; name a file with --out")
		}
		return write(a.out)
	}
	if err := newFile(out, write); err != nil {
		return err
	}
	return a.print(map[string]any{"file": out, "bytes": size, "manifest": res.Manifest}, func(w io.Writer) {
		m := &res.Manifest
		fmt.Fprintf(w, "Wrote %s: %s as of %s, %s, %s\n", out, m.TrustDomain, m.Taken.Format(time.RFC3339), counts(m.Devices), mebibytes(size))
	})
}

// counts says how many devices of each status there are.
func counts(of map[string]int) string {
	sum := 0
	for _, n := range of {
		sum += n
	}
	text := fmt.Sprintf("%d devices", sum)
	var each []string
	for _, s := range slices.Sorted(maps.Keys(of)) {
		if of[s] > 0 {
			each = append(each, fmt.Sprintf("%d %s", of[s], s))
		}
	}
	if len(each) > 0 {
		text += " (" + strings.Join(each, ", ") + ")"
	}
	return text
}

func mebibytes(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// newFile writes a file that only its owner can read and that was not there. It
// appears whole, and on stable storage, or not at all.
func newFile(name string, write func(io.Writer) error) error {
	// Looked at before what may take minutes; CreateWhole looks once more.
	if exists(name) {
		return fmt.Errorf("%s is there already, and nothing is overwritten", name)
	}
	return durable.CreateWhole(name, 0o600, write)
}

// sizer counts what is written, and shows it.
type sizer struct {
	w   io.Writer
	n   int64
	bar bytesShown
}

func (c *sizer) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.bar.show(c.n)
	return n, err
}

// bytesShown shows on a terminal how far something is whose end is not known.
type bytesShown struct {
	w    io.Writer
	on   bool
	last int64
}

func (s *bytesShown) show(n int64) {
	const step = 4 << 20
	if s.on && n-s.last >= step {
		s.last = n
		fmt.Fprintf(s.w, "\r%s", mebibytes(n))
	}
}

func (s *bytesShown) done() {
	if s.last > 0 {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
}
