package main

import (
	"context"
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
)

// growth is the further figure of upload and download: how far the target's
// memory grew in kB.
const growth = "growth"

// upload measures a study on its way in (STOW-RS).
func upload(ctx context.Context, r *rig, t *running) (sample, error) {
	plan := t.bulk(r)
	plan.Method, plan.Path, plan.ContentType = "POST", dicomPath, `multipart/related; type="application/dicom"; boundary=x`
	return r.transfer(ctx, t, plan)
}

// download measures a study on its way out. The shipped class of a scanner may
// list a study's series but not retrieve one, so that is what it asks for; the
// bytes are those of a study.
func download(ctx context.Context, r *rig, t *running) (sample, error) {
	plan := t.bulk(r)
	plan.Method, plan.Path, plan.ContentType = "GET", dicomPath+"/"+fleet.Size+"/series", ""
	return r.transfer(ctx, t, plan)
}

// bulk returns a plan of a scanner.
func (t *running) bulk(r *rig) fleet.Plan {
	plan := t.plan(r, fleet.Transfer)
	if t.bulkPort != 0 {
		plan.Addr = fmt.Sprintf("127.0.0.1:%d", t.bulkPort)
	}
	plan.Cert, plan.Key, plan.Body, plan.Bytes = t.scanner.cert, t.scanner.key, "", r.opt.megabytes<<20
	return plan
}

func (r *rig) transfer(ctx context.Context, t *running, plan fleet.Plan) (sample, error) {
	within := loadGrace + time.Duration(r.opt.megabytes)*slowMegabyte
	c, err := r.man(plan)
	if err != nil {
		return sample{}, err
	}
	defer c.dismiss()
	if _, err := c.await(ctx, "ready", within); err != nil {
		return sample{}, err
	}
	before, err := t.restingMemory()
	if err != nil {
		return sample{}, err
	}
	watch := t.watchMemory()
	var rep *fleet.Report
	used, err := t.spends(func() error {
		if err := c.say(fleet.Go); err != nil {
			return err
		}
		e, err := c.await(ctx, "done", within)
		rep = e.Report
		return err
	})
	top, watchErr := watch.top()
	if err == nil {
		err = watchErr
	}
	if err != nil {
		return sample{}, err
	}
	grown := kilo(max(top-before, 0))
	mb := float64(rep.Bytes) / 1e6
	return sample{
		figure: float64(used) / float64(time.Microsecond) / max(mb, 1),
		more:   map[string]float64{growth: grown},
		note: fmt.Sprintf("%.0f MB at %.0f MB/s, first byte after %s, memory +%.0f kB on %.1f MB", mb, mb/rep.Elapsed.Seconds(),
			rep.FirstByte.Round(10*time.Microsecond), grown, kilo(before)/1e3),
		faults: faultsOf(rep),
	}, nil
}

// slowMegabyte is the longest that a megabyte is waited for.
const slowMegabyte = 250 * time.Millisecond
