package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/agent/relay"
	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

// SocketName is the socket in the state directory at which a running agent says
// how it is. It takes no orders.
const SocketName = "status.sock"

// statusTime bounds an answer at the socket.
const statusTime = 5 * time.Second

// A Status is what an agent does.
type Status struct {
	Device     string        `json:"device"`
	NotAfter   time.Time     `json:"not_after"`
	RenewAfter time.Time     `json:"renew_after"`
	Renewal    string        `json:"renewal_failed,omitempty"` // why the last try failed
	Entries    []EntryStatus `json:"entries"`
}

// An EntryStatus is what one entry of the configuration does.
type EntryStatus struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"` // forward or reverse
	Protocol string `json:"protocol,omitempty"`
	Listen   string `json:"listen"`
	To       string `json:"to"`
	relay.Counts
	Away string `json:"away,omitempty"` // why the gateway, or the device, can not be reached
	// Stored and Messages are there for an entry with a store.
	Stored   *queue.Stats  `json:"stored,omitempty"`
	Messages *queue.Counts `json:"messages,omitempty"`
}

// Status returns what the agent does now.
func (a *Agent) Status() Status {
	id := a.holder.Current()
	st := Status{Device: id.Device, NotAfter: id.Leaf().NotAfter.UTC(), RenewAfter: id.Due().UTC()}
	if err := a.renewer.Failed(); err != nil {
		st.Renewal = err.Error()
	}
	for _, p := range a.ports {
		st.Entries = append(st.Entries, p.Status())
	}
	return st
}

func (a *Agent) listenStatus() (net.Listener, error) {
	path := filepath.Join(a.cfg.StateDir, SocketName)
	// The lock says that whoever made it is gone.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("status: %w", err)
	}
	old := syscall.Umask(0o077)
	ln, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	return ln, nil
}

// speak answers whoever connects with the status, and hears nothing.
func (a *Agent) speak(ctx context.Context, ln net.Listener) {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(statusTime))
		_ = json.NewEncoder(conn).Encode(a.Status())
		_ = conn.Close()
	}
}

func (c *command) status() func(context.Context) error {
	asJSON := c.Bool("json", false, "as JSON")
	return func(ctx context.Context) error {
		cfg, err := settings.Load(c.config)
		if err != nil {
			return err
		}
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", filepath.Join(cfg.StateDir, SocketName))
		if err != nil {
			return fmt.Errorf("no agent runs with %s: %w", c.config, err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(statusTime))
		var st Status
		if err := json.NewDecoder(conn).Decode(&st); err != nil {
			return fmt.Errorf("the agent's answer: %w", err)
		}
		if *asJSON {
			enc := json.NewEncoder(c.out)
			enc.SetIndent("", "  ")
			return enc.Encode(st)
		}
		return st.print(c.out)
	}
}

func (st *Status) print(out io.Writer) error {
	const layout = "2006-01-02 15:04 MST"
	fmt.Fprintf(out, "%s, certificate until %s, renewal from %s\n", st.Device, st.NotAfter.Local().Format(layout), st.RenewAfter.Local().Format(layout))
	if st.Renewal != "" {
		fmt.Fprintf(out, "renewal failed: %s\n", st.Renewal)
	}
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tKIND\tLISTEN\tTO\tOPEN\tACCEPTED\tREFUSED\tSTATE")
	for _, e := range st.Entries {
		kind, state := e.Kind, "good"
		if e.Protocol != "" {
			kind = e.Protocol
		}
		if e.Away != "" {
			state = "away: " + e.Away
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", e.Name, kind, e.Listen, e.To, e.Open, e.Accepted, e.Refused, state)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, e := range st.Entries {
		if e.Stored == nil || e.Messages == nil {
			continue
		}
		fmt.Fprintf(out, "%s: %d messages wait (%d bytes), %d delivered, %d set aside, %d not taken\n", e.Name,
			e.Stored.Messages, e.Stored.Bytes, e.Messages.Delivered, e.Messages.SetAside, e.Messages.Refused)
		if e.Messages.Dropped > 0 {
			fmt.Fprintf(out, "%s: %d messages of quality 0 dropped\n", e.Name, e.Messages.Dropped)
		}
		if e.Messages.Expired > 0 {
			fmt.Fprintf(out, "%s: %d messages were wanted for less long than they waited\n", e.Name, e.Messages.Expired)
		}
		if e.Stored.Messages > 0 {
			fmt.Fprintf(out, "%s: the oldest waits since %s\n", e.Name, e.Stored.Oldest.Local().Format(layout))
		}
	}
	return nil
}
