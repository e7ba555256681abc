package enrol

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Events of the audit log, beside "device.enrolled" and "device.renewed".
const (
	// eventRequest: a device's request passed every check, and a certificate is
	// about to be issued.
	eventRequest = "enrolment.request"
	// eventRefused: it was not issued. The detail says which check failed.
	eventRefused = "enrolment.refused"
	// eventWaiting: it was not issued, because the device waits for approval. It is
	// recorded once.
	eventWaiting = "enrolment.waiting"
	// eventRepeated: what was granted before was handed out once more.
	eventRepeated = "enrolment.repeated"
	// eventAccount: an ACME account is about to be opened for a device.
	eventAccount = "enrolment.account"
)

// maxWhy bounds the reason in a record.
const maxWhy = 512

func (g *Registrar) record(q *Request, event string, rec *device.Record) *audit.Record {
	r := &audit.Record{Kind: audit.KindDevice, Event: event, Remote: q.Remote, Listener: q.Listener,
		Detail: []protocol.Field{field("way", string(q.Way)), field("proof", q.Proof.Name())}}
	if rec != nil {
		r.Device, r.Class, r.DeviceStatus = rec.ID, rec.Class, string(rec.Status)
	}
	return r
}

// announce records that a device is about to be given a certificate: what can not be
// recorded is not done. recorded returns when the record is durable, or why it is not;
// it is called once.
func (g *Registrar) announce(ctx context.Context, q *Request, rec *device.Record) (recorded func() error, err error) {
	if err := g.cfg.Audit.Append(ctx, g.record(q, eventRequest, rec)); err != nil {
		return nil, notRecorded(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.cfg.Audit.Flush(context.WithoutCancel(ctx)) }()
	return func() error {
		if err := <-done; err != nil {
			return notRecorded(err)
		}
		return nil
	}, nil
}

func notRecorded(err error) error {
	return fmt.Errorf("nothing was issued, because it can not be recorded: %w", err)
}

// recordFirst records, durably, what is about to be done.
func (g *Registrar) recordFirst(ctx context.Context, r *audit.Record) error {
	err := g.cfg.Audit.Append(ctx, r)
	if err == nil {
		err = g.cfg.Audit.Flush(ctx)
	}
	if err != nil {
		return notRecorded(err)
	}
	return nil
}

// recordGranted records what was granted, and returns when the record is durable.
func (g *Registrar) recordGranted(ctx context.Context, q *Request, st *standing, iss *Issued, revision string) error {
	event := "device.enrolled"
	switch {
	case iss.Repeated:
		event = eventRepeated
	case st.renewal:
		event = "device.renewed"
	}
	r := g.record(q, event, iss.Device)
	r.Operator = st.operator
	r.Fingerprint = fingerprint(iss.Chain[0])
	r.Detail = append(r.Detail,
		field("serial", iss.Chain[0].SerialNumber.String()), field("not_after", iss.Chain[0].NotAfter.UTC().Format(time.RFC3339)))
	if len(st.names) > 0 {
		r.Detail = append(r.Detail, field("names", strings.Join(st.names, " ")))
	}
	r.Detail = append(r.Detail, st.detail...)
	if q.Weak {
		r.Detail = append(r.Detail, field("protection", "legacy"))
	}
	if revision != "" {
		r.Detail = append(r.Detail, field("policy", revision))
	}
	err := g.cfg.Audit.Append(ctx, r)
	if err == nil {
		err = g.cfg.Audit.Flush(ctx)
	}
	if err != nil {
		return fmt.Errorf("the change was made, but its record is not durable: %w", err)
	}
	return nil
}

// recordRefusal records what was refused. That it can not be recorded makes it no
// less refused.
func (g *Registrar) recordRefusal(ctx context.Context, q *Request, id string, why *Refusal) {
	rec, ok := g.cfg.Devices.Get(id)
	if !ok && device.ValidID(id) == nil {
		rec = &device.Record{ID: id}
	}
	r := g.record(q, eventRefused, rec)
	if o, ok := q.Proof.(Operator); ok {
		r.Operator = o.Person
	}
	r.Detail = append(r.Detail, field("code", string(why.Code)), field("reference", why.Reference))
	r.Error = why.Why[:min(len(why.Why), maxWhy)]
	if err := g.cfg.Audit.Append(context.WithoutCancel(ctx), r); err != nil {
		g.cfg.Logger.Error("recording a refused enrolment", "device", id, "code", why.Code, "error", err)
	}
}
