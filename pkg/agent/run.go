package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/identity"
	"github.com/anteroom-iomt/anteroom/pkg/agent/relay"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

const (
	// gcPercent and memoryLimit keep the program small rather than quick: what it
	// holds are buffers, and there is little to collect. The environment (GOGC,
	// GOMEMLIMIT) has the last word.
	gcPercent   = 25
	memoryLimit = 64 << 20
	lockFile    = "lock"
	// anotherTime is how often it is looked at whether the agent is the same device.
	anotherTime = 5 * time.Second
)

// A port is one entry of the configuration at work.
type port interface {
	Run(context.Context)
	Status() EntryStatus
}

// An Agent is everything that runs.
type Agent struct {
	cfg     *settings.File
	holder  *identity.Holder
	device  string // that it is, from its start to its end
	renewer *identity.Renewer
	ports   []port
	lock    *os.File
	log     *slog.Logger
}

func (c *command) run() func(context.Context) error {
	debugging := c.Bool("debug", false, "log every connection that breaks")
	return func(ctx context.Context) error {
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(memoryLimit)
		}
		level := slog.LevelInfo
		if *debugging {
			level = slog.LevelDebug
		}
		cfg, err := settings.Load(c.config)
		if err != nil {
			return err
		}
		a, err := Open(cfg, slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level})))
		if err != nil {
			return err
		}
		return a.Run(ctx)
	}
}

// Open opens every port that the configuration names. Nothing is carried before
// [Agent.Run].
func Open(cfg *settings.File, log *slog.Logger) (a *Agent, err error) {
	store, err := identity.OpenStore(cfg.StateDir, cfg.TPM())
	if err != nil {
		return nil, err
	}
	a = &Agent{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.lock, err = lock(filepath.Join(cfg.StateDir, lockFile)); err != nil {
		return a, err
	}
	if a.holder, err = store.Hold(time.Now); err != nil {
		return a, err
	}
	a.device = a.holder.Current().Device
	client := &identity.Client{Settings: cfg.Enrolment, Store: store, Clock: time.Now}
	a.renewer = &identity.Renewer{Current: a.holder.Current, Ask: client.Renew, Log: log, Clock: time.Now}
	for _, f := range cfg.Forward {
		p, err := a.forward(f)
		if err != nil {
			return a, err
		}
		a.ports = append(a.ports, p)
	}
	return a, a.reverse(store)
}

// reverse opens the ports that the gateway connects to.
func (a *Agent) reverse(store *identity.Store) error {
	if len(a.cfg.Reverse) == 0 {
		return nil
	}
	own, err := store.ServerCertificate()
	if err != nil {
		return err
	}
	for _, r := range a.cfg.Reverse {
		var pins [][sha256.Size]byte
		for _, p := range r.Pins {
			pin, err := settings.Pin(p)
			if err != nil {
				return err
			}
			pins = append(pins, pin)
		}
		rev, err := relay.OpenReverse(r, identity.ServerConfig(own, pins), a.log)
		if err != nil {
			return err
		}
		a.ports = append(a.ports, &backward{rev, r})
	}
	return nil
}

// gateway returns the listener that an entry leads to.
func (a *Agent) gateway(f settings.Forward) *relay.Gateway {
	peer := &identity.Peer{Name: f.ServerName, CAFile: f.CAFile}
	if f.Protocol == "http" {
		// The device speaks HTTP/1.1 and nothing else.
		peer.ALPN = []string{"http/1.1"}
	}
	return relay.NewGateway(f.Gateway, func() (*tls.Config, error) {
		conf, err := a.holder.Config(peer)
		// After it: what was in force before may be the device that this was.
		return conf, errors.Join(err, a.another())
	}, a.log.With("port", f.Name))
}

// another is the error of an agent that has become another device by enrolling
// anew. What it holds and carries is the former's: it ends, and begins as the other
// when it is started again.
func (a *Agent) another() error {
	if now := a.holder.Current().Device; now != a.device {
		return fmt.Errorf("this is %s now, and was %s: the agent has to be started again", now, a.device)
	}
	return nil
}

// stay returns when ctx ends, or with an error when the agent is another device.
func (a *Agent) stay(ctx context.Context) error {
	tick := time.NewTicker(anotherTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := a.another(); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// lock makes sure that no other agent has the state.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("state: another anteroom-agent has %s", filepath.Dir(path))
	}
	return f, nil
}

// Run carries connections until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	speaker, err := a.listenStatus()
	if err != nil {
		return err
	}
	id := a.holder.Current()
	a.log.Info("the agent runs", "device", id.Device, "not_after", id.Leaf().NotAfter.UTC().Format(time.RFC3339), "key", place(id, a.cfg), "ports", len(a.ports))
	ctx, end := context.WithCancel(ctx)
	defer end()
	var wg sync.WaitGroup
	for _, p := range a.ports {
		wg.Go(func() { p.Run(ctx) })
	}
	wg.Go(func() { a.renewer.Run(ctx) })
	wg.Go(func() { a.speak(ctx, speaker) })
	err = a.stay(ctx)
	end()
	wg.Wait()
	a.log.Info("the agent ends")
	return err
}

func (a *Agent) close() {
	var errs error
	for _, p := range a.ports {
		if c, ok := p.(io.Closer); ok {
			errs = errors.Join(errs, c.Close())
		}
	}
	if a.lock != nil {
		errs = errors.Join(errs, a.lock.Close())
	}
	if errs != nil {
		a.log.Error("closing", "error", errs)
	}
}
