package cli

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

func (a *app) deviceCommand() *cobra.Command {
	return group("device", "Enrol, list and withdraw devices",
		a.enrollCommand(), a.tokenCommand(), a.importCommand(), a.approveCommand(), a.renewCommand(), a.listCommand(), a.showCommand(), a.postureCommand(),
		a.associateCommand(), a.dissociateCommand(), a.replaceCommand(), a.loanCommand(), a.decommissionCommand(), a.findingsCommand(), a.acceptCommand(),
		a.moveCommand("quarantine", "Cut a device off until it is released", device.Quarantined, false),
		a.moveCommand("release", "Let a quarantined device work again", device.Active, false),
		a.moveCommand("revoke", "Withdraw a device's certificates for ever", device.Revoked, true),
		a.moveCommand("retire", "End a device's life: nothing brings the id back", device.Retired, true),
	)
}

// credentials is where a device's key comes from and where its files go.
type credentials struct {
	csr, out, key string
	p12, legacy   bool
	p12Password   string // the file it is in
	ttl           string

	password  string // of the PKCS#12 file, once request was called
	generated bool
}

func (k *credentials) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.csr, "csr", "", "signing request (PEM or DER) made on the device; without it a key is made here")
	f.StringVar(&k.out, "out", ".", "directory for certificate and key")
	f.StringVar(&k.key, "key", string(ca.KeyKinds()[0]), "kind of key to make: "+keyKinds())
	f.BoolVar(&k.p12, "p12", false, "also write a PKCS#12 file")
	f.BoolVar(&k.legacy, "p12-legacy", false, "write the PKCS#12 file with the old encryption that old devices need")
	f.StringVar(&k.p12Password, "p12-password-file", "", "file with the password of the PKCS#12 file (default: one is generated and printed)")
	f.StringVar(&k.ttl, "ttl", "", "lifetime of the certificate, such as 8760h (default: the class's)")
}

func keyKinds() string {
	var names []string
	for _, k := range ca.KeyKinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// lifetime reads --ttl.
func (k *credentials) lifetime() (time.Duration, error) {
	if k.ttl == "" {
		return 0, nil
	}
	return span("--ttl", k.ttl)
}

// span reads a time span; days may be written as 30d.
func span(flag, s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if days, err := strconv.Atoi(n); err == nil && days > 0 && days < 100_000 {
			return time.Duration(days) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usagef("%s: %q is not a time span; write 720h or 30d", flag, s)
	}
	return d, nil
}

// readPassword finds the password of the PKCS#12 file, or makes one up.
func (k *credentials) readPassword() error {
	switch {
	case !k.p12 && !k.legacy:
		if k.p12Password != "" {
			return usagef("--p12-password-file is for --p12")
		}
		return nil
	case k.p12Password == "":
		k.password, k.generated = ca.GeneratePassphrase(), true
		return nil
	}
	pass, err := config.Secret{File: k.p12Password}.Read()
	k.password = string(pass)
	return err
}

// prepare makes the directory the files go to, so that nothing is issued that
// can not be written.
func (k *credentials) prepare(id string) error {
	for _, ext := range []string{".key", ".crt", ".p12"} {
		if p := filepath.Join(k.out, id+ext); exists(p) {
			return fmt.Errorf("%s is there already; choose another --out", p)
		}
	}
	if err := os.MkdirAll(k.out, 0o700); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	probe, err := os.CreateTemp(k.out, ".anteroom-")
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// request returns the signing request, and the key if it was made here. After
// it, nothing but the CA stands in the way of writing the files.
func (k *credentials) request(id string) (csr []byte, key crypto.Signer, err error) {
	if k.csr != "" {
		if k.p12 || k.legacy {
			return nil, nil, usagef("--p12 needs the private key, which stays where --csr was made")
		}
		if csr, err = os.ReadFile(k.csr); err != nil {
			return nil, nil, fmt.Errorf("--csr: %w", err)
		}
		return csr, nil, k.prepare(id)
	}
	if err := k.prepare(id); err != nil {
		return nil, nil, err
	}
	kind, err := ca.ParseKeyKind(k.key)
	if err != nil {
		return nil, nil, usageError{err}
	}
	if err := k.readPassword(); err != nil {
		return nil, nil, err
	}
	key, req, err := ca.NewKeyAndCSR(kind, id)
	if err != nil {
		return nil, nil, err
	}
	return req.Raw, key, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// deliver writes an issued certificate's files and returns their paths and the
// password it made up, if it did.
func (k *credentials) deliver(id string, key crypto.Signer, iss *admin.Issued) (paths []string, password string, err error) {
	b, err := bundle(id, key, iss)
	if err != nil {
		return nil, "", err
	}
	if k.generated {
		password = k.password
	}
	paths, err = b.WriteFiles(k.out, k.pkcs12())
	return paths, password, err
}

// pkcs12 returns what is asked for of a PKCS#12 file; nil is none.
func (k *credentials) pkcs12() *ca.P12Options {
	switch {
	case k.legacy:
		return &ca.P12Options{Form: ca.P12Legacy, Password: k.password}
	case k.p12:
		return &ca.P12Options{Form: ca.P12Modern, Password: k.password}
	}
	return nil
}

func (a *app) enrollCommand() *cobra.Command {
	var (
		rec  device.Record
		k    credentials
		tags []string
		redo bool
	)
	c := &cobra.Command{
		Use: "enroll ID --class CLASS", Short: "Register a device and issue its certificate", Args: args("the device's ID"),
		Example: "  anteroom device enroll pump-0042 --class infusion-pump --serial 88123 --location icu --out pump-0042",
		RunE: func(cmd *cobra.Command, arg []string) error {
			rec.ID = arg[0]
			if rec.Class == "" {
				return usagef("device enroll: --class is missing")
			}
			ttl, err := k.lifetime()
			if err != nil {
				return err
			}
			if rec.Tags, err = keyValues(tags); err != nil {
				return err
			}
			if err := device.ValidID(rec.ID); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				csr, key, err := k.request(rec.ID)
				if err != nil {
					return err
				}
				iss, err := api.Enroll(ctx, admin.EnrollRequest{Device: rec, CSR: csr, TTL: ttl, Again: redo})
				if err != nil {
					return err
				}
				return a.issued("Enrolled", rec.ID, &k, key, iss)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&rec.Class, "class", "", "what kind of device it is; see the files in policies/classes")
	f.StringVar(&rec.Manufacturer, "manufacturer", "", "who made it")
	f.StringVar(&rec.Model, "model", "", "its model")
	f.StringVar(&rec.Serial, "serial", "", "its serial number")
	f.StringVar(&rec.UDI, "udi", "", "its unique device identifier")
	f.StringVar(&rec.Location, "location", "", "where it is, such as icu")
	f.StringVar(&rec.Owner, "owner", "", "who is responsible for it")
	f.StringArrayVar(&tags, "tag", nil, "a tag, key=value; may be repeated")
	f.BoolVar(&rec.LifeCritical, "life-critical", false, "a patient's life may depend on it")
	f.BoolVar(&redo, "again", false, "enrol a revoked device anew")
	k.flags(c)
	return c
}

func keyValues(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, t := range list {
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" {
			return nil, usagef("--tag: %q is not key=value", t)
		}
		if _, twice := out[k]; twice {
			return nil, usagef("--tag: %s is there twice", k)
		}
		out[k] = v
	}
	return out, nil
}

// issued writes the files of an issued certificate and says what was done.
func (a *app) issued(verb, id string, k *credentials, key crypto.Signer, iss *admin.Issued) error {
	paths, password, err := k.deliver(id, key, iss)
	if err != nil {
		return fmt.Errorf("%s has its certificate, but its files could not be written: %w; device renew %s issues another", id, err, id)
	}
	for _, w := range iss.Warnings {
		fmt.Fprintln(a.err, "anteroom: warning: "+w)
	}
	if iss.CutShort {
		fmt.Fprintln(a.err, "anteroom: warning: the certificate ends earlier than asked, with the CA's own")
	}
	result := map[string]any{"device": iss.Device, "files": paths, "serial": iss.Serial, "not_after": iss.NotAfter}
	if password != "" {
		result["p12_password"] = password
	}
	return a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s (%s): certificate %s valid until %s in %s\n", verb, id, iss.Device.Class, iss.Serial,
			iss.NotAfter.Format("2006-01-02"), strings.Join(paths, ", "))
		if password != "" {
			fmt.Fprintf(w, "Password of the PKCS#12 file, shown this once: %s\n", password)
		}
	})
}

// moveCommand is a command that moves a device to another status.
func (a *app) moveCommand(verb, short string, to device.Status, ask bool) *cobra.Command {
	var (
		reason string
		yes    bool
	)
	c := &cobra.Command{
		Use: verb + " ID", Short: short, Args: args("the device's ID"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			if ask {
				if err := a.confirm(yes, fmt.Sprintf("%s %s? This can not be undone.", strings.ToUpper(verb[:1])+verb[1:], arg[0])); err != nil {
					return err
				}
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				rec, err := api.SetStatus(ctx, admin.StatusRequest{ID: arg[0], To: to, Reason: reason})
				if err != nil {
					return err
				}
				return a.print(rec, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", rec.ID, rec.Status) })
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	if ask {
		c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	}
	return c
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format("2006-01-02")
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show what is known of a device", Args: args("the device's ID"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				r, err := api.Show(ctx, arg[0])
				if err != nil {
					return err
				}
				b, err := api.Patients(ctx, arg[0])
				if err != nil {
					return err
				}
				fs, err := api.Findings(ctx, arg[0])
				if err != nil {
					return err
				}
				return a.print(shownDevice{r, b.Patients, b.Withheld, fs.Findings, fs.Clock}, func(w io.Writer) { describe(w, r, b, fs) })
			})
		},
	}
}

func describe(w io.Writer, r *device.Record, b *admin.Bedside, fs *admin.Findings) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(tw, "%s\t%s\n", name, value)
		}
	}
	row("id", r.ID)
	row("class", r.Class)
	status := string(r.Status) + " since " + r.StatusAt.Format(time.RFC3339)
	if r.StatusReason != "" {
		status += " (" + r.StatusReason + ")"
	}
	row("status", status)
	if r.LifeCritical {
		row("life-critical", "yes")
	}
	row("manufacturer", r.Manufacturer)
	row("model", r.Model)
	row("serial", r.Serial)
	row("udi", r.UDI)
	row("location", r.Location)
	row("owner", r.Owner)
	describeLoan(row, r.Loan)
	describeBedside(row, b)
	var tags []string
	for k, v := range r.Tags {
		tags = append(tags, k+"="+v)
	}
	slices.Sort(tags)
	row("tags", strings.Join(tags, " "))
	row("firmware", r.Posture.Firmware)
	if r.Posture.MaxCVSS > 0 {
		row("worst known CVSS", strconv.FormatFloat(r.Posture.MaxCVSS, 'f', 1, 64))
	}
	if !r.Posture.AssessedAt.IsZero() {
		row("assessed", r.Posture.AssessedAt.Format(time.RFC3339))
	}
	for _, c := range r.Certificates {
		text := fmt.Sprintf("%s until %s, SHA-256 %s…", c.Serial, c.NotAfter.Format(time.RFC3339), c.Fingerprint[:16])
		if !c.RevokedAt.IsZero() {
			text += ", revoked " + c.RevokedAt.Format(time.RFC3339)
			if c.RevokedFor != "" {
				text += " by itself (" + c.RevokedFor + ")"
			}
		}
		row("certificate", text)
	}
	describeFindings(row, fs)
	tw.Flush()
}

func (a *app) postureCommand() *cobra.Command {
	var firmware, at string
	var cvss float64
	c := &cobra.Command{
		Use: "posture ID", Short: "Record a device's health: firmware, worst known vulnerability; what is not said stays", Args: args("the device's ID"),
		RunE: func(cmd *cobra.Command, arg []string) error {
			req := admin.PostureRequest{ID: arg[0], AssessedAt: time.Now().UTC()}
			if cmd.Flags().Changed("firmware") {
				req.Firmware = &firmware
			}
			if cmd.Flags().Changed("max-cvss") {
				req.MaxCVSS = &cvss
			}
			if req.Firmware == nil && req.MaxCVSS == nil {
				return usagef("device posture: --firmware or --max-cvss is missing")
			}
			if at != "" {
				var err error
				if req.AssessedAt, err = time.Parse(time.RFC3339, at); err != nil {
					return usagef("--assessed-at: %q is not a time such as 2026-01-31T12:00:00Z", at)
				}
			}
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				rec, err := api.SetPosture(ctx, req)
				if err != nil {
					return err
				}
				return a.print(rec, func(w io.Writer) { fmt.Fprintf(w, "Recorded the posture of %s\n", rec.ID) })
			})
		},
	}
	c.Flags().StringVar(&firmware, "firmware", "", "firmware version")
	c.Flags().Float64Var(&cvss, "max-cvss", 0, "highest CVSS score of its known vulnerabilities, 0 to 10")
	c.Flags().StringVar(&at, "assessed-at", "", "when it was assessed (default: now)")
	return c
}

// classes returns the classes the policy set of a configuration knows, or nil.
func classes(ctx context.Context, cfg *config.File) []string {
	set, err := policy.Load(ctx, cfg.Policy.Enforce, policy.Options{MaxBytes: int64(cfg.Policy.MaxSize)})
	if err != nil {
		return nil
	}
	return set.Keys("classes")
}
