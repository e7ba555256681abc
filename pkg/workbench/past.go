package workbench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Devices is the registry as it is now.
type Devices interface {
	Get(id string) (*device.Record, bool)
}

// DeviceList is a registry of records that were fetched once, by id.
type DeviceList map[string]*device.Record

// Get implements [Devices].
func (l DeviceList) Get(id string) (*device.Record, bool) {
	r, ok := l[id]
	return r, ok
}

// A Past is a recorded decision and its question, made again.
type Past struct {
	Entry    *audit.Entry
	Question policy.Question
	// Registry says what is known of the device's facts at that moment.
	Registry Registry
}

// Registry says how the registry's record of now stands to that of then.
type Registry uint8

const (
	// Exact: it is the very record that was decided on.
	Exact Registry = iota
	// Changed: it was changed since, or the audit record is from before its
	// revision was recorded.
	Changed
	// Absent: the registry does not know the device.
	Absent
)

// ErrNoQuestion says that no policy was asked: what the device sent was not
// understood, or the gateway refused it by itself.
var ErrNoQuestion = errors.New("no policy was asked")

// decided is the event of transactions that were understood.
const decided = "transaction.decided"

// asked reports whether a policy set decided what e tells of.
func asked(e *audit.Entry) bool {
	if e.Kind != audit.KindTransaction || e.Event != decided || e.Decision == nil || e.Request == nil || e.Omitted {
		return false
	}
	switch e.Decision.Cause {
	case "", "policy", causeLimit, causeObligation:
		return e.Decision.Revision != ""
	}
	return false
}

// Causes of what the policy allowed and the gateway did not let pass, because of
// what the policy obliges to.
const (
	causeLimit      = "limit"
	causeObligation = "obligation"
)

// allowed reports whether the policy set allowed what d tells of.
func allowed(d *audit.EntryDecision) bool {
	return d.Allow && !d.WouldDeny || d.Cause == causeLimit || d.Cause == causeObligation
}

// Reconstruct makes the question of a recorded decision again. The error wraps
// ErrNoQuestion if there was none.
func Reconstruct(e *audit.Entry, devices Devices) (*Past, error) {
	if !asked(e) {
		return nil, fmt.Errorf("record %d, %s: %w", e.Seq, e.Event, ErrNoQuestion)
	}
	p := &Past{Entry: e}
	rec := &device.Record{ID: e.Device}
	switch now, ok := devices.Get(e.Device); {
	case !ok:
		p.Registry = Absent
	default:
		copied := *now
		rec = &copied
		if now.Revision != e.DeviceRevision {
			p.Registry = Changed
		}
	}
	rec.Class, rec.Status = e.Class, device.Status(e.DeviceStatus)
	// Who was at its bedside then, as it is recorded: what the facts about the
	// transaction's patients are compared with is recorded the same way.
	rec.Patients = nil
	for _, p := range e.DevicePatients[:min(len(e.DevicePatients), device.MaxPatients)] {
		rec.Patients = append(rec.Patients, device.Association{Patient: device.Patient(p)})
	}
	s := protocol.NewSession(rec)
	s.ID, s.Listener, s.Fingerprint = e.Session, e.Listener, e.Fingerprint
	s.Remote = remote(e.Remote)
	s.Started = e.Time.Add(-time.Duration(e.Age) * time.Second)
	if t := e.TLS; t != nil {
		s.TLS = protocol.TLS{Version: t.Version, Cipher: t.Cipher, Group: t.Group, SNI: t.SNI, ALPN: t.ALPN, Resumed: t.Resumed}
	}
	tx, err := transaction(e)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", e.Seq, err)
	}
	p.Question = policy.Question{Device: rec, Session: s, Transaction: tx, Now: e.Time}
	if e.Route != "" {
		p.Question.Route = &protocol.Route{Name: e.Route, Backend: e.Backend, Environment: e.Environment, Class: protocol.Class(e.RouteClass), Lane: e.Lane}
	}
	if g := e.BreakGlass; g != nil {
		// A record is written after its question was asked, which may be after the
		// grant has ended.
		if !p.Question.Now.Before(g.Until) {
			p.Question.Now = g.Until.Add(-1)
		}
		p.Question.BreakGlass = breakglass.Past(g.ID, g.Reason, g.Until, p.Question.Now)
	}
	return p, nil
}

// remote reads an address with or without a port.
func remote(s string) netip.AddrPort {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, 0)
}

// transaction reads what was asked for out of a record's line.
func transaction(e *audit.Entry) (*protocol.Transaction, error) {
	var line struct {
		Request json.RawMessage `json:"request"`
	}
	if err := json.Unmarshal(e.Raw, &line); err != nil {
		return nil, err
	}
	v, err := Value(line.Request)
	if err != nil {
		return nil, err
	}
	r := e.Request
	tx := &protocol.Transaction{Protocol: r.Protocol, Action: r.Action, Resource: r.Resource, Bytes: -1, Of: r.Of, Part: r.Part}
	if r.Bytes != nil {
		tx.Bytes = *r.Bytes
	}
	for _, f := range v.Fields() {
		switch f.Name {
		case "protocol", "action", "resource", "bytes", "of", "part":
		default:
			tx.Facts = append(tx.Facts, f)
		}
	}
	tx.Omitted = unread(v)
	return tx, nil
}

// unread returns the facts that a record lacks because nobody asked for them: the
// bodies of these interactions are read only if a rule reads what is in there.
func unread(request protocol.Value) [][]string {
	facts, _ := request.Get("fhir")
	if _, read := facts.Get("conditional_references"); read {
		return nil
	}
	switch interaction, _ := facts.Get("interaction"); interaction.Text() {
	case "create", "update", "patch", "conditional-create", "conditional-update", "conditional-patch", "operation":
		return BodyFacts()
	}
	return nil
}

// BodyFacts are the facts that only a body tells, as paths below input.
func BodyFacts() [][]string {
	return [][]string{
		{"request", "fhir", "body"}, {"request", "fhir", "patient"}, {"request", "fhir", "patients"}, {"request", "fhir", "conditional_references"},
	}
}

// Unread reports whether a set reads what nobody read then, so that it can not
// decide.
func (p *Past) Unread(set *policy.Set) bool {
	return slices.ContainsFunc(p.Question.Transaction.Omitted, func(path []string) bool { return set.ReachesFor(p.Question.Device, path...) })
}

// Value reads a fact written as JSON. Numbers are whole, as all facts' are.
func Value(b []byte) (protocol.Value, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return protocol.Null(), err
	}
	if _, err := d.Token(); err != io.EOF {
		return protocol.Null(), errors.New("more follows the value")
	}
	return value(v)
}

func value(v any) (protocol.Value, error) {
	switch v := v.(type) {
	case bool:
		return protocol.Bool(v), nil
	case string:
		return protocol.String(v), nil
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			return protocol.Null(), fmt.Errorf("%s is not a whole number", v)
		}
		return protocol.Int(n), nil
	case []any:
		list := make([]protocol.Value, len(v))
		for i := range v {
			var err error
			if list[i], err = value(v[i]); err != nil {
				return protocol.Null(), err
			}
		}
		return protocol.List(list...), nil
	case map[string]any:
		fs := make([]protocol.Field, 0, len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			f, err := value(v[name])
			if err != nil {
				return protocol.Null(), err
			}
			fs = append(fs, protocol.Field{Name: name, Value: f})
		}
		return protocol.Object(fs...), nil
	}
	return protocol.Null(), nil
}

// pseudonym begins what stands for an identifier in a record.
const pseudonym = "hmac:"

// Caveats lists in what the question may differ from the one that was asked, as
// far as the set reads it.
func (p *Past) Caveats(set *policy.Set) (out []string) {
	if p.Registry != Exact {
		var old []string
		for _, path := range set.Reads() {
			if fact, ok := strings.CutPrefix(path, "input.device."); ok && fact != "id" && fact != "class" && fact != "status" && fact != "patients" {
				old = append(old, path)
			}
		}
		if len(old) > 0 {
			where := "taken from the registry of now, whose record has changed since"
			if p.Registry == Absent {
				where = "not known, because the registry has no such device any more"
			}
			out = append(out, strings.Join(old, ", ")+": "+where)
		}
	}
	var hidden []string
	for _, f := range p.Question.Transaction.Facts {
		hidden = pseudonyms(hidden, f.Value, set, []string{"request", f.Name})
	}
	if len(hidden) > 0 {
		out = append(out, strings.Join(slices.Compact(hidden), ", ")+": recorded as a pseudonym, so that it can be told whether it is the same and not what it was")
	}
	if set.Reaches("behaviour") {
		out = append(out, "input.behaviour is not recorded")
	}
	return out
}

// pseudonyms appends the paths that the set reads and that hold pseudonyms.
func pseudonyms(out []string, v protocol.Value, set *policy.Set, path []string) []string {
	switch v.Kind() {
	case protocol.KindString:
		if strings.HasPrefix(v.Text(), pseudonym) && set.Reaches(path...) {
			out = append(out, "input."+strings.Join(path, "."))
		}
	case protocol.KindList:
		for _, e := range v.Elems() {
			out = pseudonyms(out, e, set, path)
		}
	case protocol.KindObject:
		for _, f := range v.Fields() {
			out = pseudonyms(out, f.Value, set, append(path[:len(path):len(path)], f.Name))
		}
	}
	return out
}
