package cli

import (
	"bufio"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
	"github.com/anteroom-iomt/anteroom/policies"
)

// setup is what anteroom init is asked to make.
type setup struct {
	dir          string
	trustDomain  string
	organisation string
	hosts        []string
	address      string
	passphrase   config.Secret
	operator     string
	constrain    bool
	yes          bool
}

// made are the names init makes in its directory, in the order in which they
// appear: the configuration last, because with it there is a gateway.
var made = []string{"state", "policies", "secrets", "operator", "root-ca.crt", "root-ca.key", "anteroom.yaml"}

func (a *app) initCommand() *cobra.Command {
	var s setup
	c := &cobra.Command{
		Use: "init", Short: "Set up a gateway: CA, first operator, policies, configuration", Args: args(),
		Long: `Set up a gateway in a directory: a root and an intermediate CA with encrypted
keys, the first operator's certificate, the shipped policies and a configuration
that works. Nothing is overwritten. What is not said with flags is asked for.`,
		Example: "  anteroom init --dir /etc/anteroom --trust-domain hospital.example --organisation 'Example Hospital' --host gateway.hospital.example",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.ask(&s); err != nil {
				return err
			}
			return a.init(cmd.Context(), &s)
		},
	}
	f := c.Flags()
	f.StringVar(&s.dir, "dir", ".", "directory to set up")
	f.StringVar(&s.trustDomain, "trust-domain", "", "name devices' identities live under, such as hospital.example")
	f.StringVar(&s.organisation, "organisation", "", "name of the organisation in certificates")
	f.StringSliceVar(&s.hosts, "host", nil, "name or address devices use for the gateway; may be repeated")
	f.StringVar(&s.address, "listen", "0.0.0.0:8443", "address to listen on")
	f.StringVar(&s.passphrase.File, "passphrase-file", "", "file with the CA's passphrase, which stays where it is (default: one is generated)")
	f.StringVar(&s.passphrase.Env, "passphrase-env", "", "environment variable with the CA's passphrase")
	f.StringVar(&s.passphrase.Credential, "passphrase-credential", "", "systemd credential with the CA's passphrase")
	f.StringVar(&s.operator, "operator", "admin", "name of the first operator")
	f.BoolVar(&s.constrain, "constrain", false, "put a critical name constraint into the intermediate: URIs of the trust domain only (some devices refuse such a chain)")
	f.BoolVar(&s.yes, "yes", false, "ask nothing")
	return c
}

// ask completes a setup from the terminal, or says which flags are missing.
func (a *app) ask(s *setup) error {
	hostname, err := os.Hostname()
	if err != nil || hostname == "" {
		hostname = "localhost"
	}
	hostname = strings.ToLower(hostname)
	if s.yes || !terminal(a.in) {
		var missing []string
		if s.trustDomain == "" {
			missing = append(missing, "--trust-domain")
		}
		if s.organisation == "" {
			missing = append(missing, "--organisation")
		}
		if len(missing) > 0 {
			return usagef("init: missing without a terminal to ask on: %s", strings.Join(missing, ", "))
		}
		if len(s.hosts) == 0 {
			s.hosts = []string{hostname}
		}
		return nil
	}
	in := bufio.NewReader(a.in)
	question := func(v *string, text, def string) {
		if *v != "" {
			return
		}
		fmt.Fprintf(a.err, "%s [%s]: ", text, def)
		line, _ := in.ReadString('\n')
		if *v = strings.TrimSpace(line); *v == "" {
			*v = def
		}
	}
	question(&s.trustDomain, "Trust domain, the name devices' identities live under", "hospital.example")
	question(&s.organisation, "Organisation", "Example Hospital")
	if len(s.hosts) == 0 {
		var hosts string
		question(&hosts, "Names devices use for this gateway, with commas", hostname)
		for h := range strings.SplitSeq(hosts, ",") {
			s.hosts = append(s.hosts, strings.TrimSpace(h))
		}
	}
	return nil
}

// init makes everything in a directory of its own beside the final names, and
// moves it there when it is whole.
func (a *app) init(ctx context.Context, s *setup) (err error) {
	if err := s.check(); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	undo, err := makeDir(s.dir)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	for _, name := range made {
		if _, err := os.Lstat(filepath.Join(s.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("init: %s is there already; nothing was changed", filepath.Join(s.dir, name))
		}
	}
	if err := room(s.dir); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	stage, err := os.MkdirTemp(s.dir, ".anteroom-init-")
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	defer os.RemoveAll(stage)
	generated, err := a.stage(ctx, s, stage)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	for i, name := range made {
		if err := os.Rename(filepath.Join(stage, name), filepath.Join(s.dir, name)); err != nil {
			for _, done := range made[:i] {
				os.RemoveAll(filepath.Join(s.dir, done))
			}
			return fmt.Errorf("init: %w", err)
		}
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return fmt.Errorf("init: everything was made, but may not survive a power failure: %w", err)
	}
	return a.print(map[string]any{"dir": s.dir, "trust_domain": s.trustDomain, "config": filepath.Join(s.dir, "anteroom.yaml"),
		"passphrase_generated": generated}, func(w io.Writer) { s.report(w, generated) })
}

// initRoom is what has to be free on a new gateway's disk: the audit log takes no
// record with less than audit.min_free, and the first operator is one.
const initRoom = 80 << 20

// room says that the disk of a directory is too full, before minutes are spent on
// finding out.
func room(dir string) error {
	if left, err := audit.FreeSpace(dir); err == nil && left < initRoom {
		return fmt.Errorf("only %d MiB are free on the disk of %s; %d are needed", left>>20, dir, initRoom>>20)
	}
	return nil
}

// check finds what is wrong with a setup before anything is made.
func (s *setup) check() error {
	if err := ca.ValidTrustDomain(s.trustDomain); err != nil {
		return err
	}
	if err := device.ValidID(s.operator); err != nil {
		return fmt.Errorf("--operator: %w", err)
	}
	if s.passphrase.File != "" {
		abs, err := filepath.Abs(s.passphrase.File)
		if err != nil {
			return err
		}
		s.passphrase.File = abs
	}
	// What is wrong with the flags is told as what is wrong with the file they
	// would make, without the place in a file that nobody has seen.
	_, err := config.Parse(filepath.Join(s.dir, "anteroom.yaml"), s.configuration())
	var bad *config.Error
	if errors.As(err, &bad) {
		var texts []string
		for _, p := range bad.Problems {
			p.File, p.Line = "", 0
			texts = append(texts, strings.TrimPrefix(p.String(), ": "))
		}
		return errors.New(strings.Join(texts, "; "))
	}
	return err
}

// makeDir makes a directory and returns what removes it, and the ones above it
// that were made for it, if nothing is in them.
func makeDir(dir string) (undo func(), err error) {
	var made []string
	for d := filepath.Clean(dir); !exists(d); d = filepath.Dir(d) {
		made = append(made, d)
	}
	undo = func() {
		for _, d := range made {
			_ = os.Remove(d)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// stage makes everything below dir.
func (a *app) stage(ctx context.Context, s *setup, dir string) (generated bool, err error) {
	pass, generated, err := s.readPassphrase()
	if err != nil {
		return false, err
	}
	at := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	defer clear(pass)
	for _, d := range []string{"state", "secrets", "operator"} {
		if err := os.Mkdir(at(d), 0o700); err != nil {
			return false, err
		}
	}
	if generated {
		if err := durable.Create(at("secrets", "ca-passphrase"), fmt.Appendln(nil, string(pass)), 0o600); err != nil {
			return false, err
		}
		if err := durable.SyncDir(at("secrets")); err != nil { // the CA is nothing without it
			return false, err
		}
	}
	res, err := ca.Init(ctx, ca.InitConfig{Dir: at("state", admin.CADir), RootKeyPath: at("root-ca.key"), TrustDomain: s.trustDomain,
		Organisation: s.organisation, Passphrase: pass, ConstrainURIs: s.constrain, Clock: time.Now})
	if err != nil {
		return false, err
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: res.Root.Raw})
	if err := durable.Create(at("root-ca.crt"), root, 0o644); err != nil {
		return false, err
	}
	if err := policies.Write(at("policies")); err != nil {
		return false, err
	}
	if err := durable.Create(at("anteroom.yaml"), s.configuration(), 0o644); err != nil {
		return false, err
	}
	cfg, err := config.Load(at("anteroom.yaml"))
	if err != nil {
		return false, err
	}
	return generated, s.firstOperator(ctx, cfg, at("operator"))
}

// readPassphrase returns the CA's passphrase, and whether it was made here.
func (s *setup) readPassphrase() (pass []byte, generated bool, err error) {
	if s.passphrase == (config.Secret{}) {
		return []byte(ca.GeneratePassphrase()), true, nil
	}
	pass, err = s.passphrase.Read()
	return pass, false, err
}

// firstOperator makes the first operator with every role.
func (s *setup) firstOperator(ctx context.Context, cfg *config.File, dir string) error {
	log := slog.New(slog.DiscardHandler)
	st, err := admin.OpenState(ctx, cfg, log, time.Now)
	if err != nil {
		return err
	}
	api := admin.Local(admin.NewService(admin.Config{State: st, Clock: time.Now, Logger: log}), admin.LocalActor())
	key, csr, err := ca.NewKeyAndCSR(ca.KeyKinds()[0], s.operator)
	if err != nil {
		return errors.Join(err, api.Close())
	}
	iss, err := api.AddOperator(ctx, admin.OperatorRequest{Name: s.operator, Roles: admin.AllRoles, CSR: csr.Raw})
	if err = errors.Join(err, api.Close()); err != nil {
		return err
	}
	b, err := bundle(s.operator, key, iss)
	if err != nil {
		return err
	}
	_, err = b.WriteFiles(dir, nil)
	return err
}

// bundle makes a bundle of an issued certificate; key is nil if it is elsewhere.
func bundle(name string, key crypto.Signer, iss *admin.Issued) (*ca.Bundle, error) {
	chain, err := certificates(iss.ChainPEM)
	if err != nil {
		return nil, err
	}
	roots, err := certificates(iss.RootsPEM)
	if err != nil {
		return nil, err
	}
	return &ca.Bundle{Name: name, Key: key, Chain: chain, Roots: roots}, nil
}

// certificates reads PEM certificates.
func certificates(data []byte) (out []*x509.Certificate, err error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}

// configuration returns the text of anteroom.yaml.
func (s *setup) configuration() []byte {
	var hosts []string
	for _, h := range s.hosts {
		hosts = append(hosts, fmt.Sprintf("%q", h))
	}
	// A string in Go's quotes is one in YAML's too.
	secret := `file: secrets/ca-passphrase`
	switch p := s.passphrase; {
	case p.File != "":
		secret = fmt.Sprintf("file: %q", p.File)
	case p.Env != "":
		secret = fmt.Sprintf("env: %q", p.Env)
	case p.Credential != "":
		secret = fmt.Sprintf("credential: %q", p.Credential)
	}
	return fmt.Appendf(nil, `# Anteroom's configuration. docs/configuration.md describes every setting;
# "anteroom check" finds what is wrong, and a change takes effect when it is saved.
version: 1
trust_domain: %s
organisation: %q
state_dir: state

ca:
  passphrase: {%s}

policy:
  enforce: policies

telemetry:
  address: 127.0.0.1:9464   # /metrics, /healthz, /readyz

listeners:
  - name: devices
    address: %q
    hosts: [%s]

# What devices may reach, and where it is. These are examples: remove the # signs
# and put in your own systems.
#
# routes:
#   - {name: fhir, path: /fhir, kind: fhir, backend: ehr}
#   - {name: pacs, path: /dicom-web, backend: pacs}
#
# backends:
#   - name: ehr
#     addresses: ["ehr.hospital.example:443"]
#     ca_file: ehr-ca.pem        # without it, only certificates of our own CA are accepted
#   - name: pacs
#     addresses: ["pacs-1.hospital.example:443", "pacs-2.hospital.example:443"]
#     ca_file: pacs-ca.pem
`, s.trustDomain, s.organisation, secret, s.address, strings.Join(hosts, ", "))
}

// report says what was made and what to do next.
func (s *setup) report(w io.Writer, generated bool) {
	at := func(name string) string { return filepath.Join(s.dir, name) }
	where := s.dir
	if abs, err := filepath.Abs(s.dir); err == nil {
		where = abs
	}
	fmt.Fprintf(w, "Made a gateway for %s in %s\n\n", s.trustDomain, where)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, what string) { fmt.Fprintf(tw, "  %s\t%s\n", at(name), what) }
	row("anteroom.yaml", "configuration")
	row("policies", "policies: Rego and YAML, yours to edit")
	row("root-ca.crt", "root certificate, for devices and backends")
	row("root-ca.key", "root key, encrypted: take it offline now, the gateway never needs it")
	row("operator", "the first operator's key and certificate")
	if generated {
		row("secrets/ca-passphrase", "the CA's passphrase, generated: whoever reads it and the state directory has the CA")
	}
	tw.Flush()
	fmt.Fprintf(w, "\nNext:\n  anteroom check --config %[1]s\n  anteroom run --config %[1]s\n  anteroom device enroll pump-0042 --class infusion-pump --out pump-0042 --config %[1]s\n", at("anteroom.yaml"))
}
