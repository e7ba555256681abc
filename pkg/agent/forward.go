package agent

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/mllp"
	"github.com/anteroom-iomt/anteroom/pkg/agent/mqtt"
	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/relay"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

// carrier is a forward that holds nothing back.
type carrier struct {
	*relay.Forward
	cfg     settings.Forward
	gateway *relay.Gateway
}

func (a *Agent) forward(f settings.Forward) (port, error) {
	g := a.gateway(f)
	dir := filepath.Join(a.cfg.StateDir, "store", f.Name)
	switch {
	case f.Store.On() && f.Protocol == "mllp":
		port, err := mllp.Open(mllp.Config{Settings: f, Dir: dir, Device: a.device, Gateway: g, Log: a.log, Clock: time.Now})
		return &storer{port, f, g}, err
	case f.Store.On() && f.Protocol == "mqtt":
		port, err := mqtt.Open(mqtt.Config{Settings: f, Dir: dir, Device: a.device, Gateway: g, Log: a.log, Clock: time.Now})
		return &storer{port, f, g}, err
	}
	fwd, err := relay.OpenForward(f, g, a.log)
	if err != nil {
		return nil, err
	}
	return &carrier{fwd, f, g}, nil
}

// Status implements [port].
func (c *carrier) Status() EntryStatus { return forwardStatus(c.cfg, c.gateway, c.Counts()) }

func forwardStatus(cfg settings.Forward, g *relay.Gateway, n relay.Counts) EntryStatus {
	st := EntryStatus{Name: cfg.Name, Kind: "forward", Protocol: cfg.Protocol, Listen: cfg.Listen, To: cfg.Gateway, Counts: n}
	if err := g.Failed(); err != nil {
		st.Away = err.Error()
	}
	return st
}

// Close implements [io.Closer], for a port that never ran.
func (c *carrier) Close() error {
	if err := c.Forward.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// storer is a forward that keeps messages while the gateway is away.
type storer struct {
	storing
	cfg     settings.Forward
	gateway *relay.Gateway
}

// storing is the port of a protocol that stores.
type storing interface {
	Run(context.Context)
	Counts() relay.Counts
	Stats() (queue.Stats, queue.Counts)
	Close() error
}

// Status implements [port].
func (s *storer) Status() EntryStatus {
	st := forwardStatus(s.cfg, s.gateway, s.Counts())
	waiting, done := s.Stats()
	st.Stored, st.Messages = &waiting, &done
	return st
}

// backward is a reverse entry at work.
type backward struct {
	*relay.Reverse
	cfg settings.Reverse
}

// Status implements [port].
func (b *backward) Status() EntryStatus {
	st := EntryStatus{Name: b.cfg.Name, Kind: "reverse", Listen: b.cfg.Listen, To: b.cfg.Device, Counts: b.Counts()}
	if err := b.Failed(); err != nil {
		st.Away = err.Error()
	}
	return st
}

// Close implements [io.Closer], as carrier's does.
func (b *backward) Close() error {
	if err := b.Reverse.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
