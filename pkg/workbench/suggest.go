package workbench

import (
	"context"
	"slices"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// maxPatterns bounds the addresses of web services that are told apart for a
// class; past it, what varies becomes a wildcard.
const maxPatterns = 32

// Use is what a class of devices was seen to do and was allowed to, on a route
// that only observes also what it would not have been.
type Use struct {
	Class     string
	Decisions int
	Devices   map[string]bool
	System    map[string]bool            // FHIR interactions with the server as a whole
	Types     map[string]map[string]bool // FHIR interactions by type
	Calls     map[string]map[string]bool // types by FHIR operation
	Includes  map[string]bool
	Chains    map[string]bool
	Web       []WebUse
}

// A WebUse is an address of a web service and what was done there.
type WebUse struct {
	Method string
	Path   []string        // "*" stands for what identifies something
	Query  map[string]bool // names of parameters
	// Bare: it was also asked without any parameter.
	Bare bool
}

// Observe reads what classes of devices were used for. What was decided under an
// emergency grant is left out: an emergency is no reason to allow it ever after.
func Observe(ctx context.Context, dir string, f audit.Filter) (map[string]*Use, error) {
	f.Kind, f.Event = audit.KindTransaction, decided
	out := map[string]*Use{}
	err := audit.Lines(ctx, dir, audit.LineOptions{Filter: f}, func(line []byte) error {
		e, err := audit.Decode(line)
		if err != nil || !f.Match(e) || !asked(e) || !e.Decision.Allow || e.BreakGlass != nil {
			return nil
		}
		// Only the facts are looked at: the line is not kept.
		tx, err := transaction(e)
		if err != nil {
			return nil
		}
		u := out[e.Class]
		if u == nil {
			u = &Use{Class: e.Class, Devices: map[string]bool{}, System: map[string]bool{}, Types: map[string]map[string]bool{},
				Calls: map[string]map[string]bool{}, Includes: map[string]bool{}, Chains: map[string]bool{}}
			out[e.Class] = u
		}
		u.add(e.Device, tx)
		return nil
	})
	for _, u := range out {
		u.generalise()
	}
	return out, err
}

func (u *Use) add(device string, tx *protocol.Transaction) {
	u.Decisions++
	u.Devices[device] = true
	switch tx.Protocol {
	case "fhir":
		fhir := fact(tx, "fhir")
		text := func(name string) string { v, _ := fhir.Get(name); return v.Text() }
		interaction, typ := text("interaction"), text("type")
		switch {
		case interaction == "operation":
			put(u.Calls, text("operation"), typ)
		case typ == "":
			u.System[interaction] = true
		default:
			put(u.Types, typ, interaction)
		}
		for name, to := range map[string]map[string]bool{"includes": u.Includes, "chains": u.Chains} {
			list, _ := fhir.Get(name)
			for _, v := range list.Elems() {
				to[v.Text()] = true
			}
		}
	case "http":
		http := fact(tx, "http")
		method, _ := http.Get("method")
		w := WebUse{Method: method.Text(), Query: map[string]bool{}}
		path, _ := http.Get("path")
		for _, s := range path.Elems() {
			name := s.Text()
			if strings.HasPrefix(name, pseudonym) {
				name = "*"
			}
			w.Path = append(w.Path, name)
		}
		query, _ := http.Get("query")
		for _, f := range query.Fields() {
			w.Query[f.Name] = true
		}
		w.Bare = len(w.Query) == 0
		u.web(w)
	}
}

func fact(tx *protocol.Transaction, name string) protocol.Value {
	for _, f := range tx.Facts {
		if f.Name == name {
			return f.Value
		}
	}
	return protocol.Null()
}

func put(m map[string]map[string]bool, key, word string) {
	if m[key] == nil {
		m[key] = map[string]bool{}
	}
	m[key][word] = true
}

// web adds an address, or joins it to a like one.
func (u *Use) web(w WebUse) {
	for i := range u.Web {
		o := &u.Web[i]
		if o.Method == w.Method && slices.Equal(o.Path, w.Path) {
			o.Bare = o.Bare || w.Bare
			for q := range w.Query {
				o.Query[q] = true
			}
			return
		}
	}
	if len(u.Web) >= 8*maxPatterns {
		u.generalise()
	}
	u.Web = append(u.Web, w)
}

// generalise makes wildcards of the segments that vary most, until the addresses
// are few enough to read.
func (u *Use) generalise() {
	for len(u.Web) > maxPatterns {
		at, most := -1, 0
		for i := range longest(u.Web) {
			names := map[string]bool{}
			for _, w := range u.Web {
				if i < len(w.Path) {
					names[w.Path[i]] = true
				}
			}
			if len(names) > most {
				at, most = i, len(names)
			}
		}
		if most < 2 {
			return
		}
		old := u.Web
		u.Web = nil
		for _, w := range old {
			if at < len(w.Path) {
				w.Path = slices.Clone(w.Path)
				w.Path[at] = "*"
			}
			u.web(w)
		}
	}
	slices.SortFunc(u.Web, func(a, b WebUse) int {
		if c := slices.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return strings.Compare(a.Method, b.Method)
	})
}

func longest(ws []WebUse) (n int) {
	for _, w := range ws {
		n = max(n, len(w.Path))
	}
	return n
}
