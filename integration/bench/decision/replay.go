package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/workbench"
)

// fill appends what devices asked, again and again with an id of its own, until
// so many decisions are recorded. The log is the gateway's own, which is
// stopped.
func (h *hospital) fill(ctx context.Context, records int) (err error) {
	dir := filepath.Join(h.dir, "state", "audit")
	var seen []*audit.Record
	for e, err := range audit.Read(ctx, dir, audit.ReadOptions{Filter: audit.Filter{Kind: audit.KindTransaction, Event: "transaction.decided"}}) {
		if err != nil {
			return err
		}
		rec, err := again(e)
		if errors.Is(err, workbench.ErrNoQuestion) {
			continue
		}
		if err != nil {
			return err
		}
		seen = append(seen, rec)
	}
	// The edits' own requests came first, and are all alike.
	seen = seen[max(0, len(seen)-8):]
	if len(seen) == 0 {
		return errors.New("the gateway recorded nothing to replay")
	}
	log, err := audit.Open(ctx, audit.Config{Dir: dir, Origin: audit.Origin("bench.example")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	for i := range records {
		rec := *seen[i%len(seen)]
		decision := *rec.Decision
		decision.ID = fmt.Sprintf("replayed%012d", i)
		rec.Decision = &decision
		if err := log.Append(ctx, &rec); err != nil {
			return err
		}
	}
	return nil
}

// again makes the record of a recorded decision.
func again(e *audit.Entry) (*audit.Record, error) {
	p, err := workbench.Reconstruct(e, workbench.DeviceList{})
	if err != nil {
		return nil, err
	}
	s, d := p.Question.Session, e.Decision
	return &audit.Record{
		Kind: e.Kind, Event: e.Event, Device: e.Device, Class: e.Class, Fingerprint: e.Fingerprint, DeviceStatus: e.DeviceStatus, DeviceRevision: e.DeviceRevision,
		Session: e.Session, Age: time.Duration(e.Age) * time.Second, Listener: e.Listener, Remote: s.Remote, TLS: &s.TLS,
		Route: e.Route, Backend: e.Backend, Environment: e.Environment, RouteClass: e.RouteClass, Transaction: p.Question.Transaction,
		Decision: &audit.Decision{Allow: d.Allow, Cause: d.Cause, Reasons: d.Reasons, Denials: d.Denials, Revision: d.Revision, Elapsed: d.Elapsed},
	}, nil
}

// replay times the command an operator types.
func (h *hospital) replay(ctx context.Context, records int, r *report) error {
	if err := os.CopyFS(filepath.Join(h.dir, "next"), os.DirFS(filepath.Join(h.dir, "policies"))); err != nil {
		return err
	}
	const rule = "package anteroom.authz\n\ndeny contains \"pumps search no more\" if {\n\tinput.device.class == \"infusion-pump\"\n\tinput.request.fhir.interaction == \"search-type\"\n}\n"
	if err := os.WriteFile(filepath.Join(h.dir, "next", "authz", "next.rego"), []byte(rule), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, h.program, "policy", "replay", "next", "--json")
	cmd.Dir = h.dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	start := time.Now()
	out, err := cmd.Output()
	took := time.Since(start)
	if err != nil {
		return fmt.Errorf("anteroom policy replay: %w: %s", err, errs.Bytes())
	}
	var rep workbench.ReplayReport
	if err := json.Unmarshal(out, &rep); err != nil {
		return err
	}
	if rep.Decisions < records || rep.Changed < records/10 || rep.Drift > 0 {
		return fmt.Errorf("the replay made %d decisions again, %d would change, %d could not be made again", rep.Decisions, rep.Changed, rep.Drift)
	}
	state := cmd.ProcessState
	note := fmt.Sprintf("%.1f s of processor time, %.0f records/s", (state.UserTime() + state.SystemTime()).Seconds(), float64(rep.Decisions)/took.Seconds())
	if u, ok := state.SysUsage().(*syscall.Rusage); ok {
		note += fmt.Sprintf(", %d MB resident at most", u.Maxrss/1024)
	}
	r.add(figure{what: fmt.Sprintf("a replay of %d records", records), unit: "s", limit: 60, values: []float64{took.Seconds()}, note: note})
	return nil
}
