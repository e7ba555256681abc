package enrol

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// newcomerTable holds newcomers by device id.
const newcomerTable = "enrolment-newcomers"

// repeatTime is for how long a device that asks again with the same keys is given
// what it was given already: its answer was lost. Later it waits for an approval.
const repeatTime = 24 * time.Hour

// A Newcomer is what is known of a device beside its record that came, or is
// awaited, with its manufacturer's certificate.
type Newcomer struct {
	Device string `json:"device"`
	// Manufacturer, Serial and FactoryKey are of the certificate that it showed;
	// they are empty if it has not come yet. The key is SHA-256 of its
	// SubjectPublicKeyInfo in hex. Another key is not taken for the same device.
	Manufacturer string    `json:"manufacturer,omitempty"`
	Serial       string    `json:"serial,omitempty"`
	FactoryKey   string    `json:"factory_key,omitempty"`
	Since        time.Time `json:"since,omitzero"`   // when it came first
	Remote       string    `json:"remote,omitempty"` // from where
	// Waits says that it asked for a certificate and was not approved; Reference
	// names the record of that.
	Waits     bool   `json:"waits,omitempty"`
	Reference string `json:"reference,omitempty"`
	// Approved is when it was, by whom; an approval is good for one certificate.
	Approved time.Time `json:"approved,omitzero"`
	By       string    `json:"by,omitempty"`
	// Used is when it was given its last certificate on this proof, Key the key
	// that is in it, Leaf the certificate.
	Used time.Time `json:"used,omitzero"`
	Key  string    `json:"key,omitempty"`
	Leaf []byte    `json:"leaf,omitempty"`
}

// Newcomers keeps who came with a manufacturer's certificate, and who was approved.
// There are at most as many as devices. It is safe for concurrent use.
type Newcomers struct {
	st    store.Store
	clock func() time.Time
}

// NewNewcomers returns the newcomers in a store.
func NewNewcomers(st store.Store, clock func() time.Time) *Newcomers { return &Newcomers{st, clock} }

// newcomer reads one; it is blank if there is none.
func newcomer(r store.Reader, id string) (*Newcomer, error) {
	n := &Newcomer{Device: id}
	value, err := r.Get(newcomerTable, id)
	if errors.Is(err, store.ErrNotFound) {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal(value, n)
	}
	if err != nil {
		return nil, fmt.Errorf("newcomer %s: %w", id, err)
	}
	return n, nil
}

func (n *Newcomer) put(w store.Writer) error {
	value, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return w.Put(newcomerTable, n.Device, value)
}

func (t *Newcomers) get(ctx context.Context, id string) (n *Newcomer, err error) {
	err = t.st.View(ctx, func(r store.Reader) error { n, err = newcomer(r, id); return err })
	return n, err
}

// change changes one.
func (t *Newcomers) change(ctx context.Context, id string, f func(*Newcomer) error) (n *Newcomer, err error) {
	err = t.st.Update(ctx, func(w store.Writer) error {
		if n, err = newcomer(w, id); err != nil {
			return err
		}
		if err := f(n); err != nil {
			return err
		}
		return n.put(w)
	})
	return n, err
}

// same refuses another factory key than the one that was shown before: two devices
// claim to be one.
func (n *Newcomer) same(who *factoryIdentity) error {
	if n.FactoryKey == "" || n.FactoryKey == who.key {
		return nil
	}
	return &Refusal{Code: BadKey, Public: "the device showed another certificate of its manufacturer before",
		Why: fmt.Sprintf("%s showed the factory key %.16s… before, and now %.16s…: two devices have its serial number, or its board was replaced (device approve --new-board)",
			n.Device, n.FactoryKey, who.key)}
}

// meet notes what the device showed.
func (n *Newcomer) meet(who *factoryIdentity, now time.Time) {
	if n.FactoryKey == "" {
		n.Manufacturer, n.Serial, n.FactoryKey, n.Since = who.maker.cfg.Name, who.serial, who.key, now.UTC()
	}
}

// wait notes that a device waits for approval, and returns that as a refusal. Only
// the first time is recorded and written: a device that waits asks often.
func (g *Registrar) wait(ctx context.Context, q *Request, rec *device.Record, who *factoryIdentity) error {
	n, err := g.cfg.Newcomers.get(ctx, rec.ID)
	if err != nil {
		return err
	}
	if err := n.same(who); err != nil {
		return err
	}
	if !n.Waits {
		reference := newReference()
		r := g.record(q, eventWaiting, rec)
		r.Detail = append(r.Detail, field("manufacturer", who.maker.cfg.Name), field("serial", who.serial), field("factory_key", who.key), field("reference", reference))
		err := g.cfg.Audit.Append(ctx, r)
		if err == nil {
			err = g.cfg.Audit.Flush(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s can not wait for approval, because it can not be recorded: %w", rec.ID, err)
		}
		n, err = g.cfg.Newcomers.change(context.WithoutCancel(ctx), rec.ID, func(n *Newcomer) error {
			if err := n.same(who); err != nil {
				return err
			}
			n.meet(who, g.cfg.Clock())
			n.Waits, n.Reference, n.Remote = true, reference, q.Remote.String()
			return nil
		})
		if err != nil {
			return err
		}
	}
	return &Refusal{Code: Waiting, Why: rec.ID + " waits for an operator's approval", Reference: n.Reference}
}

// approved reports whether an operator approved the device as its record has it:
// an approval from before it was revoked is none.
func (n *Newcomer) approved(rec *device.Record) bool {
	return !n.Approved.IsZero() && !rec.RevokedAt.After(n.Approved)
}

// Approve lets the device of a record have one certificate on its manufacturer's
// certificate. newBoard forgets the factory key that it showed before, because it is
// to show another. changed is false if it was approved already.
func (t *Newcomers) Approve(ctx context.Context, rec *device.Record, by string, newBoard bool) (n *Newcomer, changed bool, err error) {
	now := t.clock().UTC()
	n, err = t.change(ctx, rec.ID, func(n *Newcomer) error {
		if newBoard && n.FactoryKey != "" {
			*n = Newcomer{Device: rec.ID}
		}
		if !n.approved(rec) {
			n.Approved, n.By, changed = now, by, true
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("approve %s: %w", rec.ID, err)
	}
	return n, changed, nil
}

// Withdraw takes an approval back that was not used, and forgets that the device
// waits for one. That there is neither is no error. had says whether there was.
func (t *Newcomers) Withdraw(ctx context.Context, id string) (had bool, err error) {
	if n, err := t.get(ctx, id); err != nil || n.Approved.IsZero() && !n.Waits {
		return false, err
	}
	_, err = t.change(ctx, id, func(n *Newcomer) error {
		had = !n.Approved.IsZero() || n.Waits
		n.Approved, n.By, n.Waits = time.Time{}, "", false
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("withdraw the approval of %s: %w", id, err)
	}
	return had, nil
}

// disapproveAll takes every approval back.
func disapproveAll(w store.Writer) error {
	var approved []*Newcomer
	err := w.Each(newcomerTable, "", func(id string, value []byte) error {
		n := &Newcomer{}
		if err := json.Unmarshal(value, n); err != nil {
			return fmt.Errorf("newcomer %s: %w", id, err)
		}
		if !n.Approved.IsZero() {
			approved = append(approved, n)
		}
		return nil
	})
	for _, n := range approved {
		n.Approved, n.By = time.Time{}, ""
		err = errors.Join(err, n.put(w))
	}
	return err
}

// List returns those that wait for approval, or are approved and have not come, the
// longest known first.
func (t *Newcomers) List(ctx context.Context) (out []Newcomer, err error) {
	err = t.st.View(ctx, func(r store.Reader) error {
		return r.Each(newcomerTable, "", func(id string, value []byte) error {
			var n Newcomer
			if err := json.Unmarshal(value, &n); err != nil {
				return fmt.Errorf("newcomer %s: %w", id, err)
			}
			if n.Waits || !n.Approved.IsZero() {
				n.Leaf = nil
				out = append(out, n)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list newcomers: %w", err)
	}
	slices.SortFunc(out, func(a, b Newcomer) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Device, b.Device)) })
	return out, nil
}
