package breakglass

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// Limits of a grant.
const (
	// MaxTime is the longest a grant may last, whatever is configured.
	MaxTime = config.MaxBreakGlass
	// MinTime is the shortest: nobody's emergency, but enough to see one end in a drill.
	MinTime = 5 * time.Second
	// ApprovalTime is how long a request waits for its second person.
	ApprovalTime = 15 * time.Minute
	// maxReason bounds a reason, in bytes: it stands in the record of every decision.
	maxReason = 200
	// maxReview bounds what a reviewer says, in bytes.
	maxReview = 1000
	maxNamed  = 100 // devices or routes of one grant
)

// ErrInvalid is wrapped by errors of what is asked for.
var ErrInvalid = errors.New("invalid")

// Terms are what a grant is about. A transaction is covered if everything that is
// named here fits it.
type Terms struct {
	Devices  []string `json:"devices,omitempty"` // ids
	Class    string   `json:"class,omitempty"`
	Location string   `json:"location,omitempty"`
	Routes   []string `json:"routes,omitempty"` // none means all
	Reason   string   `json:"reason"`
	// Time is how long it lasts, in whole seconds.
	Time time.Duration `json:"time"`
}

// Check reports what is wrong with terms, by themselves.
func (t *Terms) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w grant: %w", ErrInvalid, fmt.Errorf(format, args...))
	}
	if len(t.Devices) == 0 && t.Class == "" && t.Location == "" {
		return bad("it names no device, class or location; there is no grant for everybody")
	}
	if len(t.Devices) > maxNamed || len(t.Routes) > maxNamed {
		return bad("more than %d devices or routes are named", maxNamed)
	}
	for _, id := range t.Devices {
		if err := device.ValidID(id); err != nil {
			return bad("%w", err)
		}
	}
	if t.Class != "" {
		if err := device.ValidClass(t.Class); err != nil {
			return bad("%w", err)
		}
	}
	for _, s := range append([]string{t.Location}, t.Routes...) {
		if len(s) > maxReason || !printable(s) {
			return bad("%.40q is no name of a location or route", s)
		}
	}
	if strings.TrimSpace(t.Reason) == "" {
		return bad("the reason is missing: what has happened, without naming a patient")
	}
	if len(t.Reason) > maxReason || !printable(t.Reason) {
		return bad("the reason must be one line of at most %d bytes", maxReason)
	}
	if t.Time < MinTime || t.Time > MaxTime || t.Time%time.Second != 0 {
		return bad("it must last from %v to %v, in whole seconds", MinTime, MaxTime)
	}
	return nil
}

// printable reports whether a text shows as what it is: no control characters, and
// no marks that change the direction of text.
func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// Names reports whether a device is named, wherever it goes.
func (t *Terms) Names(rec *device.Record) bool {
	return (len(t.Devices) == 0 || slices.Contains(t.Devices, rec.ID)) &&
		(t.Class == "" || t.Class == rec.Class) && (t.Location == "" || t.Location == rec.Location)
}

// covers reports whether a transaction of a device on a route is covered.
func (t *Terms) covers(rec *device.Record, route string) bool {
	return rec.Status == device.Active && t.Names(rec) && (len(t.Routes) == 0 || slices.Contains(t.Routes, route))
}

// String says in a few words who is covered.
func (t *Terms) String() string {
	var out []string
	switch len(t.Devices) {
	case 0:
		out = append(out, "devices")
		if t.Class != "" {
			out[0] = t.Class + "s"
		}
	default:
		out = append(out, strings.Join(t.Devices, ", "))
		if t.Class != "" {
			out = append(out, "of class "+t.Class)
		}
	}
	if t.Location != "" {
		out = append(out, "at "+t.Location)
	}
	if len(t.Routes) > 0 {
		out = append(out, "on "+strings.Join(t.Routes, ", "))
	}
	return strings.Join(out, " ")
}

// A Grant is what was said of it so far. It never changes; a later one of the same
// id replaces it.
type Grant struct {
	ID    string `json:"id"`
	Terms Terms  `json:"terms"`
	// Alone: it was opened by one person, which the configuration must allow.
	Alone    bool      `json:"alone,omitempty"`
	OpenedBy string    `json:"opened_by"`
	OpenedAt time.Time `json:"opened_at"`
	Opening  string    `json:"opening"` // the signed statement

	ApprovedBy string    `json:"approved_by,omitempty"`
	ApprovedAt time.Time `json:"approved_at,omitzero"`
	Approval   string    `json:"approval,omitempty"` // the signed statement
	// Until is when it ends by itself; zero before it was approved.
	Until time.Time `json:"until,omitzero"`

	EndedBy string    `json:"ended_by,omitempty"` // the operator; empty if it ended by itself
	EndedAt time.Time `json:"ended_at,omitzero"`

	ReviewedBy string    `json:"reviewed_by,omitempty"`
	ReviewedAt time.Time `json:"reviewed_at,omitzero"`
	Finding    string    `json:"finding,omitempty"`
	Review     string    `json:"review,omitempty"` // the signed statement
}

// A State is what a grant is at a moment.
type State string

// The states, in their order. Every grant that was active is to be reviewed.
const (
	Pending  State = "pending"  // for the second person
	Lapsed   State = "lapsed"   // nobody approved in time, or it was withdrawn; it never was active
	Active   State = "active"   //
	Closed   State = "closed"   // by an operator, before its time; to be reviewed
	Expired  State = "expired"  // by itself; to be reviewed
	Reviewed State = "reviewed" //
)

// Past returns a grant as a record of a decision at a time tells of it: in force
// then, and nothing more is known.
func Past(id, reason string, until, at time.Time) *Grant {
	return &Grant{ID: id, Terms: Terms{Reason: reason}, ApprovedAt: at, Until: until}
}

// State says what the grant is.
func (g *Grant) State(now time.Time) State {
	switch {
	case !g.ReviewedAt.IsZero():
		return Reviewed
	case g.ApprovedAt.IsZero():
		if g.EndedAt.IsZero() && now.Before(g.OpenedAt.Add(ApprovalTime)) {
			return Pending
		}
		return Lapsed
	case g.EndedAt.IsZero() && now.Before(g.Until):
		return Active
	case g.EndedBy != "":
		return Closed
	}
	return Expired
}

// ActiveAt reports whether the grant is in force. A nil grant is not.
func (g *Grant) ActiveAt(now time.Time) bool { return g != nil && g.State(now) == Active }

// NeedsReview reports whether it was in force and nobody has looked at it since.
func (g *Grant) NeedsReview(now time.Time) bool {
	s := g.State(now)
	return s == Closed || s == Expired
}

// ends is when the grant, pending or active, is over by itself.
func (g *Grant) ends() time.Time {
	if g.ApprovedAt.IsZero() {
		return g.OpenedAt.Add(ApprovalTime)
	}
	return g.Until
}
