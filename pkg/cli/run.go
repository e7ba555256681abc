package cli

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/gateway"
	"github.com/anteroom-iomt/anteroom/pkg/telemetry"
)

func (a *app) runCommand() *cobra.Command {
	var profile string
	c := &cobra.Command{
		Use: "run", Short: "Run the gateway", Args: args(),
		Long: `Run the gateway until SIGTERM or SIGINT, which ask sessions to finish first.
SIGHUP, or saving the configuration or a policy, puts the change into force as
one swap; what is wrong with it is logged and changes nothing.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd.Context(), profile) },
	}
	c.Flags().StringVar(&profile, "cpuprofile", "", "write a CPU profile of the whole run to this file, for benchmarks")
	return c
}

func (a *app) run(ctx context.Context, profile string) (err error) {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	stop, err := profileCPU(profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	log, err := telemetry.NewLogger(cfg.Telemetry, a.err)
	if err != nil {
		return err
	}
	paced := startMemory()
	g, err := gateway.New(ctx, cfg, gateway.Options{Version: version().Version, Logger: log, Clock: time.Now})
	if paced {
		debug.SetGCPercent(gcPercent)
	}
	if err != nil {
		return err
	}
	minding, stopMinding := context.WithCancel(ctx)
	var mind sync.WaitGroup
	mind.Go(func() { mindMemory(minding, paced, g.Waiting) })
	mind.Go(func() { mindCrowd(minding, g.Waiting) })
	defer mind.Wait()
	defer stopMinding()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-hup:
				_ = g.Reload(ctx) // logged and recorded there
			}
		}
	}()
	for _, l := range cfg.Listeners {
		log.Info("listening", "listener", l.Name, "address", g.Addr(l.Name).String(), "protocol", l.Protocol)
	}
	notifySystemd("READY=1")
	defer notifySystemd("STOPPING=1")
	return g.Run(ctx)
}

// notifySystemd tells systemd how the service is (sd_notify(3)), if it asked.
func notifySystemd(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, state)
}

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Have the running gateway read configuration and policies again", Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, func(ctx context.Context, api *admin.API) error {
				if err := api.Reload(ctx); err != nil {
					return err
				}
				return a.print(map[string]bool{"reloaded": true}, func(w io.Writer) { fmt.Fprintln(w, "Reloaded") })
			})
		},
	}
}

// buildInfo is what anteroom version prints.
type buildInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	FIPS     bool   `json:"fips140"`
}

func version() buildInfo {
	b := buildInfo{Version: "(unknown)", FIPS: fips140.Enabled()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version, b.Go = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which version this is", Args: args(),
		RunE: func(*cobra.Command, []string) error {
			v := version()
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "anteroom %s, %s", v.Version, v.Go)
				if v.Revision != "" {
					fmt.Fprintf(w, ", revision %s", v.Revision)
				}
				if v.FIPS {
					fmt.Fprint(w, ", FIPS 140-3 mode")
				}
				fmt.Fprintln(w)
			})
		},
	}
}
