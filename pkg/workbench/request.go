package workbench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// MaxRequest bounds a request that is written by hand.
const MaxRequest = 1 << 20

// A request as an author writes it: the parts of the input that are not the
// device's, by the names a policy sees.
type written struct {
	Request json.RawMessage `json:"request"`
	Session struct {
		Listener string       `json:"listener"`
		RemoteIP string       `json:"remote_ip"`
		Age      int64        `json:"age_s"`
		TLS      protocol.TLS `json:"tls"`
	} `json:"session"`
	Route struct {
		Name        string `json:"name"`
		Backend     string `json:"backend"`
		Environment string `json:"environment"`
		Class       string `json:"class"`
		Lane        bool   `json:"quarantine_lane"`
	} `json:"route"`
	BreakGlass struct {
		Active bool      `json:"active"`
		Reason string    `json:"reason"`
		Until  time.Time `json:"until"`
	} `json:"break_glass"`
	// Time is when, in RFC 3339; now if it is left out.
	Time time.Time `json:"time"`
}

// ParseRequest reads a request to try a policy with: an object with request,
// session, route, break_glass and time, each as a policy sees it, or a line of the
// audit log. All but the request may be left out. The device is rec.
func ParseRequest(body []byte, rec *device.Record, now time.Time) (*policy.Question, error) {
	if len(body) > MaxRequest {
		return nil, fmt.Errorf("the request is larger than %d bytes", MaxRequest)
	}
	var names map[string]json.RawMessage
	if err := json.Unmarshal(body, &names); err != nil {
		return nil, at(body, err)
	}
	if names["seq"] != nil && names["decision"] != nil {
		e, err := audit.Decode(body)
		if err != nil {
			return nil, err
		}
		p, err := Reconstruct(e, DeviceList{e.Device: rec})
		if err != nil {
			return nil, err
		}
		// The patients of then, as they are recorded beside those of the request.
		now := *rec
		now.Patients = p.Question.Device.Patients
		p.Question.Device = &now
		return &p.Question, nil
	}
	known := []string{"request", "session", "route", "break_glass", "time"}
	for name := range names {
		if !slices.Contains(known, name) {
			err := fmt.Errorf("%q is none of %s", name, strings.Join(known, ", "))
			if near := config.Nearest(name, known); near != "" {
				err = fmt.Errorf("%w; did you mean %q?", err, near)
			}
			return nil, err
		}
	}
	w := written{}
	w.Route.Environment, w.Route.Class, w.Time = "production", string(protocol.Clinical), now
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return nil, at(body, err)
	}
	if w.Request == nil {
		return nil, errors.New(`"request" is missing: what the device asks for, such as {"protocol": "fhir", "action": "read", …}`)
	}
	v, err := Value(w.Request)
	if err != nil {
		return nil, fmt.Errorf(`"request" is made of texts, whole numbers, truths, lists and objects: %w`, err)
	}
	if v.Kind() != protocol.KindObject {
		return nil, errors.New(`"request" is not an object`)
	}
	whole, err := json.Marshal(map[string]json.RawMessage{"request": w.Request})
	if err != nil {
		return nil, err
	}
	if err := policy.CheckWritten(whole); err != nil {
		return nil, err
	}
	tx := &protocol.Transaction{Bytes: -1}
	for _, f := range v.Fields() {
		switch f.Name {
		case "protocol":
			tx.Protocol = f.Value.Text()
		case "action":
			tx.Action = f.Value.Text()
		case "resource":
			tx.Resource = f.Value.Text()
		case "bytes":
			tx.Bytes = f.Value.Number()
		default:
			tx.Facts = append(tx.Facts, f)
		}
	}
	s := protocol.NewSession(rec)
	s.Listener, s.TLS, s.Started = w.Session.Listener, w.Session.TLS, w.Time.Add(-time.Duration(w.Session.Age)*time.Second)
	if w.Session.RemoteIP != "" {
		a, err := netip.ParseAddr(w.Session.RemoteIP)
		if err != nil {
			return nil, fmt.Errorf("session.remote_ip: %q is not an IP address", w.Session.RemoteIP)
		}
		s.Remote = netip.AddrPortFrom(a, 0)
	}
	if len(rec.Certificates) > 0 {
		s.Fingerprint = rec.Certificates[len(rec.Certificates)-1].Fingerprint
	}
	var grant *breakglass.Grant
	if g := &w.BreakGlass; g.Active {
		if g.Until.IsZero() {
			g.Until = w.Time.Add(breakglass.MinTime).Truncate(time.Second)
		}
		if !w.Time.Before(g.Until) {
			return nil, errors.New("break_glass.until: the grant is over by then, so that it is not active")
		}
		grant = breakglass.Past("", g.Reason, g.Until, w.Time)
	}
	return &policy.Question{Device: rec, Session: s, Transaction: tx, BreakGlass: grant, Now: w.Time, Route: &protocol.Route{
		Name: w.Route.Name, Backend: w.Route.Backend, Environment: w.Route.Environment, Class: protocol.Class(w.Route.Class), Lane: w.Route.Lane}}, nil
}

// at says in which line a mistake is, and what it is in the words of JSON.
func at(body []byte, err error) error {
	offset := int64(-1)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends too early")
	}
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = se.Offset
	}
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = te.Offset
		name := te.Field
		if name == "" {
			name = "the request"
		}
		err = fmt.Errorf("%s is a %s, which it cannot be", name, te.Value)
	}
	if te, ok := errors.AsType[*time.ParseError](err); ok {
		return fmt.Errorf("time: %s is not a time such as 2026-01-31T12:00:00Z", te.Value)
	}
	if offset < 0 {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(body[:min(int(offset), len(body))], []byte{'\n'}), err)
}
