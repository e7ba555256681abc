package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/workbench"
)

// The exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
	exitDenied = 3 // of policy eval
)

// usageError is an error in how a command was called.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// An app is one run of the program.
type app struct {
	in       io.Reader
	out, err io.Writer
	config   string
	json     bool
}

// Main runs a command and returns the exit status.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// Go's HTTP client quotes bytes of a backend's answers in the standard
	// logger when they are out of place, and those may be of a patient. Nothing
	// of ours logs there.
	log.SetOutput(io.Discard)
	a := &app{in: stdin, out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var silent silentError
	if errors.As(err, &silent) {
		return exitFailed
	}
	if errors.As(err, new(deniedError)) {
		return exitDenied
	}
	fmt.Fprintln(stderr, "anteroom: "+workbench.Readable(err.Error()))
	if u := (usageError{}); errors.As(err, &u) {
		fmt.Fprintf(stderr, "See %s --help.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// silentError fails a command that has said why.
type silentError struct{}

func (silentError) Error() string { return "failed" }

// deniedError says by its exit status that a policy denies what it was asked.
type deniedError struct{}

func (deniedError) Error() string { return "denied" }

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use: "anteroom", Short: "A zero-trust gateway for medical devices",
		Long: `Anteroom stands between a hospital's device network and its clinical systems.
Nothing crosses it that has not shown who it is and been allowed, this time,
to do this one thing.

Begin with:

  anteroom demo      a whole hospital in one terminal
  anteroom init      a gateway of your own`,
		SilenceErrors: true, SilenceUsage: true,
		Args: unknown, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.PersistentFlags().StringVarP(&a.config, "config", "c", "", "configuration file (default $ANTEROOM_CONFIG, ./anteroom.yaml, /etc/anteroom/anteroom.yaml)")
	c.PersistentFlags().BoolVar(&a.json, "json", false, "print the result as JSON")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	c.AddCommand(a.initCommand(), a.runCommand(), a.checkCommand(), a.demoCommand(), a.deviceCommand(), a.certCommand(), a.sessionCommand(), a.operatorCommand(),
		a.auditCommand(), a.policyCommand(), a.breakGlassCommand(), a.caCommand(), a.backupCommand(), a.restoreCommand(), a.statusCommand(), a.reloadCommand(), a.versionCommand())
	return c
}

// args checks the number of arguments and says what is missing.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if len(got) < len(names) {
			return usagef("%s: %s is missing", cmd.CommandPath(), names[len(got)])
		}
		if len(got) > len(names) {
			return usagef("%s: %q is too much", cmd.CommandPath(), got[len(names)])
		}
		return nil
	}
}

// optional allows one argument.
func optional(cmd *cobra.Command, got []string) error {
	if len(got) > 1 {
		return usagef("%s: %q is too much", cmd.CommandPath(), got[1])
	}
	return nil
}

// print writes a result: JSON if asked for, else text.
func (a *app) print(v any, text func(w io.Writer)) error {
	if !a.json {
		text(readable{a.out})
		return nil
	}
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// readable is a writer of text for people: what devices and policies say goes
// through it, and cannot move the cursor, colour the screen or turn the direction
// of a line.
type readable struct{ io.Writer }

func (r readable) Write(b []byte) (int, error) {
	if _, err := io.WriteString(r.Writer, workbench.Readable(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// path returns where the configuration is.
func (a *app) path() (string, error) {
	path := a.config
	if path == "" {
		path = os.Getenv("ANTEROOM_CONFIG")
	}
	if path == "" {
		for _, p := range []string{"anteroom.yaml", "/etc/anteroom/anteroom.yaml"} {
			if _, err := os.Stat(p); err == nil {
				path = p
				break
			}
		}
	}
	if path == "" {
		return "", errors.New("there is no anteroom.yaml here or in /etc/anteroom: run anteroom init, or name one with --config")
	}
	return filepath.Abs(path)
}

// load reads the configuration.
func (a *app) load() (*config.File, error) {
	path, err := a.path()
	if err != nil {
		return nil, err
	}
	return config.Load(path)
}

// despite returns the API of a gateway that runs although its configuration file is
// no good any more: a typo there must not be what keeps somebody from cutting a
// device off. Otherwise it returns why the file is no good.
func (a *app) despite(ctx context.Context, bad error) (*admin.API, error) {
	path, err := a.path()
	if err != nil {
		return nil, bad
	}
	dir, err := config.StateDir(path)
	if err != nil {
		return nil, bad
	}
	api, err := admin.Dial(ctx, filepath.Join(dir, admin.SocketName))
	if err != nil {
		return nil, bad
	}
	fmt.Fprintln(a.err, "anteroom: warning: the gateway goes on as it was configured, and would not start again: "+
		workbench.Readable(strings.ReplaceAll(bad.Error(), "\n", "; ")))
	return api, nil
}

// api returns the operator's API: of the running gateway, or if none runs of the
// state directory.
func (a *app) api(ctx context.Context) (*admin.API, error) {
	cfg, err := a.load()
	if err != nil {
		return a.despite(ctx, err)
	}
	socket := filepath.Join(cfg.StateDir, admin.SocketName)
	api, err := admin.Dial(ctx, socket)
	if err == nil || !errors.Is(err, admin.ErrNoGateway) {
		return api, err
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	st, err := admin.OpenState(ctx, cfg, log, time.Now)
	if errors.Is(err, admin.ErrInUse) {
		return nil, fmt.Errorf("%w, but no gateway answers on %s: it is starting or stopping, or another command is at work; try again", err, socket)
	}
	if err != nil {
		return nil, err
	}
	return admin.Local(admin.NewService(admin.Config{State: st, Clock: time.Now, Logger: log, Version: version().Version, Classes: sync.OnceValue(func() []string { return classes(ctx, cfg) })}), admin.LocalActor()), nil
}

// with calls f with the operator's API and closes it.
func (a *app) with(cmd *cobra.Command, f func(ctx context.Context, api *admin.API) error) error {
	api, err := a.api(cmd.Context())
	if err != nil {
		return err
	}
	return errors.Join(f(cmd.Context(), api), api.Close())
}

// terminal reports whether a stream is one.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// confirm asks before something that can not be taken back.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !terminal(a.in) {
		return usagef("%s Say --yes to go on", question)
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	var answer string
	_, _ = fmt.Fscanln(a.in, &answer)
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return errors.New("not done")
	}
	return nil
}

// group returns a command that only holds others.
func group(use, short string, cmds ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: unknown, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(cmds...)
	return c
}

// unknown refuses what is none of a command's commands.
func unknown(cmd *cobra.Command, got []string) error {
	if len(got) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	hint := "; there are " + strings.Join(names, ", ")
	if near := config.Nearest(got[0], names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return usagef("%s has no command %q%s", cmd.CommandPath(), got[0], hint)
}
