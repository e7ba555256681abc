package demo

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/edge"
)

// A screen shows decisions as they are made and counts them.
type screen struct {
	mu       sync.Mutex
	out      io.Writer
	color    bool
	tally    map[string]*tally
	attempts map[string]*attempts
	wrong    []string // what should not have happened
	took     []time.Duration
}

// tally is what became of one device's requests.
type tally struct {
	class           string
	allowed, denied int
}

// attempts are one attacker's.
type attempts struct {
	what  string
	n     int
	heard string
}

func newScreen(out io.Writer, color bool) *screen {
	return &screen{out: out, color: color, tally: map[string]*tally{}, attempts: map[string]*attempts{}}
}

// Colours of the terminal (ECMA-48 SGR).
const (
	green = "32"
	red   = "31"
	dim   = "2"
	bold  = "1"
)

func (s *screen) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// opened says what was set up.
func (s *screen) opened(h *hospital) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "%s\n", s.paint(bold, "A hospital in one terminal"))
	fmt.Fprintf(s.out, "CA, %d enrolled devices, gateway on %s and FHIR backend over TLS: ready in %.1f s.\n", len(profiles), h.addr, h.ready.Seconds())
	fmt.Fprintf(s.out, "Every line below is one decision by the policies in policies/. Ctrl-C ends it.\n\n")
}

// judged shows one decision. Values that identify patients are not in what it
// uses.
func (s *screen) judged(j edge.Judged) {
	if j.Transaction == nil || j.Session == nil {
		return
	}
	rec := j.Session.Device()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tally[rec.ID]
	if t == nil {
		t = &tally{class: rec.Class}
		s.tally[rec.ID] = t
	}
	mark, why := s.paint(green, "allow "), ""
	if j.Decision != nil {
		if j.Decision.Elapsed > 0 { // else it was remembered
			s.took = append(s.took, j.Decision.Elapsed)
		}
		why = first(j.Decision.Reasons)
	}
	if j.Verdict.Allow {
		t.allowed++
	} else {
		t.denied++
		mark = s.paint(red, "DENY  ")
		switch {
		case j.Decision == nil:
			why = j.Why
		case j.Decision.Fault != "":
			why = j.Decision.Fault
		default:
			why = first(j.Decision.Denials)
		}
		if rec.ID != monitorID {
			s.wrong = append(s.wrong, fmt.Sprintf("%s was denied: %s", rec.ID, why))
		}
	}
	if why == "" {
		why = "no rule allows it"
	}
	what := strings.TrimSpace(j.Transaction.Action + " " + j.Transaction.Resource)
	if j.Transaction.Of != "" {
		what = fmt.Sprintf("  entry %d: %s", j.Transaction.Part+1, what)
	}
	fmt.Fprintf(s.out, "%s  %s  %-18s %-34s %s\n", s.paint(dim, time.Now().Format("15:04:05.000")), mark, rec.ID, what, s.paint(dim, why))
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// attacked shows one attacker's try. The compromised monitor's have been shown
// as decisions already.
func (s *screen) attacked(r attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.attempts[r.attacker.name]
	if a == nil {
		a = &attempts{what: r.attacker.what}
		s.attempts[r.attacker.name] = a
	}
	a.n++
	a.heard = r.heard
	if r.status != 0 {
		a.heard = fmt.Sprintf("status %d", r.status)
		if r.status < 400 {
			s.wrong = append(s.wrong, fmt.Sprintf("an attacker (%s) got through", r.attacker.name))
		}
		return
	}
	fmt.Fprintf(s.out, "%s  %s  %-18s %-34s %s\n", s.paint(dim, time.Now().Format("15:04:05.000")), s.paint(red, "REFUSE"), r.attacker.name,
		"TLS handshake", s.paint(dim, r.heard))
}

// failed notes something that went wrong in the demo itself.
func (s *screen) failed(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, text)
}

// summary says what happened, and returns an error if it is not what should
// have.
func (s *screen) summary(h *hospital, rep *audit.Report) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, "\n%s\n", s.paint(bold, "What happened"))
	tw := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "DEVICE\tCLASS\tALLOWED\tDENIED\tREACHED THE BACKEND")
	for _, p := range profiles {
		t := s.tally[p.id]
		if t == nil || t.allowed == 0 {
			s.wrong = append(s.wrong, p.id+" got nothing done")
			t = &tally{class: p.class}
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\n", p.id, t.class, t.allowed, t.denied, h.back.from(p.id))
	}
	tw.Flush()
	fmt.Fprintf(s.out, "\n%s\n", s.paint(bold, "Who tried"))
	tw = tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ATTACKER\tTRIES\tHEARD\tWHAT IT TRIED")
	for _, name := range attackers {
		a := s.attempts[name]
		if a == nil {
			s.wrong = append(s.wrong, "an attacker ("+name+") did not try")
			continue
		}
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\n", name, a.n, a.heard, a.what)
	}
	tw.Flush()
	if n := h.back.from(revokedID); n > 0 {
		s.wrong = append(s.wrong, fmt.Sprintf("%d requests of the revoked device reached the backend", n))
	}
	fmt.Fprintf(s.out, "\nDecisions took %s in the middle, %s at the 99th percentile.\n", s.percentile(50), s.percentile(99))
	fmt.Fprintf(s.out, "The audit log holds records %d to %d under a signed checkpoint; all of them verify.\n", rep.First, rep.Last)
	if len(s.wrong) > 0 {
		return errors.New("demo: " + strings.Join(s.wrong, "; "))
	}
	return nil
}

func (s *screen) percentile(p int) time.Duration {
	if len(s.took) == 0 {
		return 0
	}
	slices.Sort(s.took)
	return s.took[(len(s.took)-1)*p/100].Round(time.Microsecond / 10)
}
