package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
)

const (
	// together is how many transfers there are at a time where memory is measured: no
	// more than a gateway lets one device have.
	together = 32
	// togetherMegabytes is the size of each, at most; memory must not show it.
	togetherMegabytes = 64
	// collected says what collects does.
	collected = "Programs in Go are told to collect garbage at once (GOGC=5): what is left of setting up a connection, and lies around until the next collection, is no memory of a body."
)

// collects is the environment in which programs in Go collect garbage at once.
var collects = []string{"GOGC=5"}

// upload measures a study on its way in (STOW-RS).
func upload(ctx context.Context, r *rig, t *running) (sample, error) {
	return r.transfer(ctx, t, t.uploading(r))
}

func (t *running) uploading(r *rig) fleet.Plan {
	plan := t.bulk(r)
	plan.Method, plan.Path, plan.ContentType = "POST", dicomPath, `multipart/related; type="application/dicom"; boundary=x`
	return plan
}

// download measures a study on its way out.
func download(ctx context.Context, r *rig, t *running) (sample, error) {
	return r.transfer(ctx, t, t.downloading(r))
}

// downloading returns a plan of a scanner that asks for a study. The shipped class of
// a scanner may list a study's series but not retrieve one, so that is what it asks
// for; the bytes are those of a study.
func (t *running) downloading(r *rig) fleet.Plan {
	plan := t.bulk(r)
	plan.Method, plan.Path, plan.ContentType = "GET", dicomPath+"/"+fleet.Size+"/series", ""
	return plan
}

// bulk returns a plan of a scanner.
func (t *running) bulk(r *rig) fleet.Plan {
	plan := t.plan(r, fleet.Transfer)
	if t.bulkPort != 0 {
		plan.Addr = fmt.Sprintf("127.0.0.1:%d", t.bulkPort)
	}
	plan.Cert, plan.Key, plan.Body, plan.Bytes = t.scanner.cert, t.scanner.key, "", r.opt.megabytes<<20
	plan.Connections = 1
	return plan
}

func (r *rig) transfer(ctx context.Context, t *running, plan fleet.Plan) (sample, error) {
	b, err := r.bulkLoad(ctx, t, plan)
	if err != nil {
		return sample{}, err
	}
	rep := b.report
	mb := float64(rep.Bytes) / 1e6
	return sample{
		figure: float64(b.used) / float64(time.Microsecond) / max(mb, 1),
		note: fmt.Sprintf("%.0f MB at %.0f MB/s, first byte after %s, memory +%.0f kB on %.1f MB", mb, mb/rep.Elapsed.Seconds(),
			rep.FirstByte.Round(10*time.Microsecond), kilo(max(b.top-b.before, 0)), kilo(b.before)/1e3),
		faults: faultsOf(rep),
	}, nil
}

func uploadMemory(ctx context.Context, r *rig, t *running) (sample, error) {
	return r.transferMemory(ctx, t, t.uploading(r))
}

func downloadMemory(ctx context.Context, r *rig, t *running) (sample, error) {
	return r.transferMemory(ctx, t, t.downloading(r))
}

// transferMemory measures what each of several transfers more takes than one does,
// which also brings back to memory what a target gave to the system at rest.
func (r *rig) transferMemory(ctx context.Context, t *running, plan fleet.Plan) (sample, error) {
	plan.Bytes = min(plan.Bytes, togetherMegabytes<<20)
	one, err := r.bulkLoad(ctx, t, plan)
	if err != nil {
		return sample{}, err
	}
	plan.Connections = together
	all, err := r.bulkLoad(ctx, t, plan)
	if err != nil {
		return sample{}, err
	}
	return sample{
		figure: kilo(max(all.top-one.top, 0)) / (together - 1),
		note: fmt.Sprintf("%.1f MB before, %.1f MB with one, %.1f MB with %d of %.0f MB each",
			kilo(one.before)/1e3, kilo(one.top)/1e3, kilo(all.top)/1e3, together, float64(all.report.Bytes)/1e6),
		faults: append(faultsOf(one.report), faultsOf(all.report)...),
	}, nil
}

// A bulk is what was seen of a plan's transfers.
type bulk struct {
	report      *fleet.Report
	used        time.Duration // CPU time of the target
	before, top int64         // memory of the target before, and the most meanwhile
}

func (r *rig) bulkLoad(ctx context.Context, t *running, plan fleet.Plan) (b bulk, err error) {
	within := loadGrace + time.Duration(int64(plan.Connections)*plan.Bytes>>20)*slowMegabyte
	c, err := r.man(plan)
	if err != nil {
		return b, err
	}
	defer c.dismiss()
	if _, err := c.await(ctx, "ready", within); err != nil {
		return b, err
	}
	if b.before, err = t.memory(); err != nil {
		return b, err
	}
	watch := t.watchMemory()
	b.used, err = t.spends(func() error {
		if err := c.say(fleet.Go); err != nil {
			return err
		}
		e, err := c.await(ctx, "done", within)
		b.report = e.Report
		return err
	})
	top, watchErr := watch.top()
	b.top = top
	return b, cmp.Or(err, watchErr)
}

// slowMegabyte is the longest that a megabyte is waited for.
const slowMegabyte = 250 * time.Millisecond
