package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// An inParts gives the input of a question in parts, as they are asked for: what one
// decision looks at is far less than what any might.
type inParts struct {
	builder  *builder
	question *Question
	members  [len(members)]*ast.Term // those that were built
}

// At returns the part of the input at path; nil is undefined. It is exactly what is
// there in the whole input (see builder.input).
func (a *inParts) At(path []string) *ast.Term {
	if len(path) == 0 {
		return a.builder.input(a.question)
	}
	want := a.builder.want.at(path[0])
	if want == nil {
		return nil
	}
	if path[0] == "request" && len(path) > 1 {
		return a.request(want, path[1:])
	}
	t := a.member(path[0], want)
	for _, name := range path[1:] {
		if t == nil {
			return nil
		}
		o, ok := t.Value.(ast.Object)
		if !ok {
			return nil
		}
		t = o.Get(a.builder.word(name))
	}
	return t
}

// member returns a member of the input, whole.
func (a *inParts) member(name string, want *paths) *ast.Term {
	i := slices.Index(members[:], name)
	if i < 0 {
		return nil
	}
	if a.members[i] == nil {
		a.members[i] = a.builder.member(i, a.question, want)
	}
	return a.members[i]
}

// member returns a member of the input; nil if it is not there.
func (b *builder) member(i int, q *Question, want *paths) *ast.Term {
	switch {
	case b.parts == nil:
	case i == memberDevice && q.Device != nil:
		d := deviceFactsOf(q)
		if t, _ := b.parts.device(&d); t != nil {
			return t
		}
	case i == memberRoute && q.Route != nil:
		if t, _ := b.parts.route(q.Route); t != nil {
			return t
		}
	case i == memberBreakGlass && !q.BreakGlass.ActiveAt(q.Now):
		return b.parts.noGrant(b, want)
	}
	return b.newMember(i, q, want)
}

func (b *builder) newMember(i int, q *Question, want *paths) *ast.Term {
	var w inputWriter
	w.builder = b
	w.stack = append(w.room[:0], object{want: b.want})
	facts{out: &w, loc: b.loc, input: &w}.member(i, q, want)
	if pairs := w.stack[0].pairs; len(pairs) > 0 {
		return pairs[0][1]
	}
	return nil
}

// noGrant returns what is said where no emergency grant is open.
func (p *parts) noGrant(b *builder, want *paths) *ast.Term {
	t := p.ungranted.Load()
	if t == nil {
		t = b.newMember(memberBreakGlass, &Question{}, want)
		p.ungranted.Store(t)
	}
	return t
}

// request returns a part of the request, without building the rest of it.
func (a *inParts) request(want *paths, path []string) *ast.Term {
	t := a.question.Transaction
	if want = want.at(path[0]); want == nil || t == nil {
		return nil
	}
	var v protocol.Value
	switch path[0] {
	case "protocol":
		v = protocol.String(t.Protocol)
	case "action":
		v = protocol.String(t.Action)
	case "resource":
		v = protocol.String(t.Resource)
	case "bytes":
		v = protocol.Int(t.Bytes)
	default:
		found := false
		// Of two of one name the last counts, as in an object that is built.
		for i := len(t.Facts) - 1; i >= 0 && !found; i-- {
			if t.Facts[i].Name == path[0] {
				v, found = t.Facts[i].Value, true
			}
		}
		if !found {
			return nil
		}
	}
	for _, name := range path[1:] {
		if want = want.at(name); want == nil || v.Kind() != protocol.KindObject {
			return nil
		}
		fields, found := v.Fields(), false
		for i := len(fields) - 1; i >= 0 && !found; i-- {
			if fields[i].Name == name {
				v, found = fields[i].Value, true
			}
		}
		if !found {
			return nil
		}
	}
	return a.builder.value(v, want)
}
