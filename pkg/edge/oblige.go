package edge

import (
	"fmt"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Results of obligations, for metrics.
const (
	resultRefused = "refused" // it stood in the way, as it should
	resultUnable  = "unable"  // it could not be met, so that what it was for is denied
)

// oblige finds out whether what the policy obliges to leaves the transaction
// allowed, and returns the cause if not. What the device has used counts from here
// on; nothing else has happened yet.
func (j *Judge) oblige(s *protocol.Session, tx *protocol.Transaction, v *protocol.Verdict, d *policy.Decision) protocol.Cause {
	o := d.Obligations
	if why := unable(tx, o); why != "" {
		for kind := range asks(o) {
			j.obliged(kind, resultUnable)
		}
		v.Cause = protocol.CauseObligation
		d.Denials = []string{"the gateway can not do what it is obliged to here: " + why}
		return v.Cause
	}
	if tx.Again || len(o.RPS) == 0 && len(o.Bytes) == 0 {
		return protocol.CauseNone
	}
	kind, wait := j.limits.admit(s.Device().ID, o, tx.Bytes, tx.Of != "", j.cfg.Clock())
	if wait > 0 {
		j.obliged(kind, resultRefused)
		v.Cause, v.RetryAfter = protocol.CauseLimit, wait
		d.Denials = []string{fmt.Sprintf("the device is beyond its %s", kind)}
	}
	return v.Cause
}

// unable says why the adapter can not do what is its to do.
func unable(tx *protocol.Transaction, o *protocol.Obligations) string {
	if len(o.Redact) == 0 && len(o.Mirror) == 0 && len(o.Bytes) == 0 {
		return ""
	}
	if tx.Obliged == nil {
		return fmt.Sprintf("nothing of that kind is known of protocol %s", tx.Protocol)
	}
	return tx.Obliged.Unable(tx, o)
}

// asks returns the kinds that are the adapter's to do.
func asks(o *protocol.Obligations) map[string]bool {
	out := map[string]bool{}
	if len(o.Redact) > 0 {
		out[protocol.KindRedact] = true
	}
	if len(o.Mirror) > 0 {
		out[protocol.KindMirror] = true
	}
	if len(o.Bytes) > 0 {
		out[protocol.KindBytes] = true
	}
	return out
}

// impose does what is obliged to beside an allowed and recorded transaction, and
// leaves the rest to the adapter. A route that only observes is left as it is.
func (j *Judge) impose(s *protocol.Session, r *protocol.Route, v *protocol.Verdict, o *protocol.Obligations) {
	if !v.Allow || observing(s, r) {
		return
	}
	v.Obligations = o
	if o.MaxSession > 0 {
		s.Expire(o.MaxSession, j.cfg.Clock())
	}
}

// Spend implements [protocol.Judge].
func (j *Judge) Spend(s *protocol.Session, o *protocol.Obligations, n int64) time.Duration {
	if o == nil || len(o.Bytes) == 0 {
		return 0
	}
	return j.limits.spend(s.Device().ID, o.Bytes, n, j.cfg.Clock())
}

func (j *Judge) obliged(kind, result string) {
	if j.cfg.Obliged != nil {
		j.cfg.Obliged(kind, result)
	}
}
