package policy

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A builder makes inputs for one set, straight in OPA's form. It holds nothing
// of any question and is safe for concurrent use.
type builder struct {
	loc   *time.Location
	want  *paths
	parts *parts // nil if nothing is kept
	// words are the texts that the set's own rules and data use, ready made:
	// most of what is compared with them is one of them.
	words map[string]*ast.Term
}

// Limits of builder.words. Longer texts are seldom met again.
const (
	maxWords   = 1 << 14
	maxWordLen = 64
)

func newBuilder(loc *time.Location, want *paths, data *datum, modules map[string]*ast.Module) *builder {
	b := &builder{loc: loc, want: want, parts: newParts(), words: map[string]*ast.Term{}}
	ast.WalkTerms(ast.NewTerm(data.ast()), b.learn)
	for _, m := range modules {
		ast.WalkTerms(m, b.learn)
	}
	return b
}

func (b *builder) learn(t *ast.Term) bool {
	if s, ok := t.Value.(ast.String); ok && len(s) <= maxWordLen && len(b.words) < maxWords {
		if b.words[string(s)] == nil {
			// A term of its own: those of a module carry a location.
			b.words[string(s)] = ast.StringTerm(string(s))
		}
	}
	return false
}

func (b *builder) word(s string) *ast.Term {
	if t := b.words[s]; t != nil {
		return t
	}
	return ast.StringTerm(s)
}

// input builds the input of a question, and of it only what the set reads.
func (b *builder) input(q *Question) *ast.Term { return b.told(q, nil, nil) }

// told builds the input too, and adds which of the lists have something in them:
// terms has what to add for each combination.
func (b *builder) told(q *Question, lists []filledPath, terms []*ast.Term) *ast.Term {
	var w inputWriter
	w.builder = b
	w.stack = w.room[:0]
	w.open("", b.want, 8)
	facts{out: &w, loc: b.loc, input: &w}.write(q, b.want)
	if len(lists) > 0 {
		bits := 0
		for i, path := range lists {
			if w.filled(path) {
				bits |= 1 << i
			}
		}
		o := &w.stack[0]
		o.pairs = append(o.pairs, [2]*ast.Term{filledKey, terms[bits]})
	}
	return w.done()
}

// filledKey is the name of what told adds.
var filledKey = ast.StringTerm(filledName)

// filled reports whether the list at path has something in it.
func (w *inputWriter) filled(path filledPath) bool {
	for _, pair := range w.stack[0].pairs {
		if !pair[0].Equal(path[0]) {
			continue
		}
		v := pair[1].Value
		for _, name := range path[1:] {
			o, ok := v.(ast.Object)
			if !ok {
				return false
			}
			t := o.Get(name)
			if t == nil {
				return false
			}
			v = t.Value
		}
		return hasElements(v)
	}
	return false
}

// An inputWriter is a writer of one input. It keeps the objects that are begun
// and not yet ended.
type inputWriter struct {
	*builder
	stack []object
	room  [6]object // as deep as the input of version 1 nests
	// keep is handed the part of the input that is being written, when it is
	// whole.
	keep func(*ast.Term)
}

// An object is one being built, to become the member name of the one around it.
type object struct {
	name  string
	want  *paths
	pairs [][2]*ast.Term
}

func (w *inputWriter) open(name string, want *paths, n int) {
	if !want.all {
		n = len(want.order)
	}
	w.stack = append(w.stack, object{name, want, make([][2]*ast.Term, 0, n)})
}

func (w *inputWriter) close() {
	o := w.stack[len(w.stack)-1]
	t := w.done()
	if len(w.stack) == 1 && w.keep != nil {
		w.keep(t)
		w.keep = nil
	}
	w.add(o.name, o.want, t)
}

// done ends the innermost object and returns it.
func (w *inputWriter) done() *ast.Term {
	o := w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	if len(o.pairs) == 0 {
		return ast.InternedEmptyObject
	}
	return ast.NewTerm(ast.NewObject(o.pairs...))
}

func (w *inputWriter) add(name string, want *paths, t *ast.Term) {
	key := want.key
	if key == nil {
		key = w.word(name)
	}
	o := &w.stack[len(w.stack)-1]
	o.pairs = append(o.pairs, [2]*ast.Term{key, t})
}

func (w *inputWriter) text(name string, want *paths, v string) { w.add(name, want, w.word(v)) }

func (w *inputWriter) number(name string, want *paths, n int64) { w.add(name, want, integer(n)) }

func (w *inputWriter) truth(name string, want *paths, v bool) {
	w.add(name, want, ast.InternedTerm(v))
}

// decimal writes a float that is no finite number as the worst score there is.
func (w *inputWriter) decimal(name string, want *paths, v float64) {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if strings.ContainsAny(s, "IN") {
		s = "10"
	}
	w.add(name, want, ast.NewTerm(ast.Number(s)))
}

// moment writes no time as "".
func (w *inputWriter) moment(name string, want *paths, t time.Time) {
	s := ""
	if !t.IsZero() {
		s = t.UTC().Format(time.RFC3339)
	}
	w.add(name, want, ast.StringTerm(s))
}

func (w *inputWriter) date(name string, want *paths, t time.Time) {
	w.add(name, want, ast.StringTerm(t.Format(time.DateOnly)))
}

func (w *inputWriter) addr(name string, want *paths, a netip.Addr) {
	w.add(name, want, ast.StringTerm(a.String()))
}

func (w *inputWriter) value(name string, want *paths, v protocol.Value) {
	w.add(name, want, w.builder.value(v, want))
}

func integer(n int64) *ast.Term {
	if int64(int(n)) == n {
		return ast.InternedTerm(int(n))
	}
	return ast.NewTerm(ast.Number(strconv.FormatInt(n, 10)))
}

// value turns a fact into OPA's form. Lists are taken whole: what is read of a
// list is never known to stop at one element.
func (b *builder) value(v protocol.Value, want *paths) *ast.Term {
	switch v.Kind() {
	case protocol.KindBool:
		return ast.InternedTerm(v.True())
	case protocol.KindInt:
		return integer(v.Number())
	case protocol.KindString:
		return b.word(v.Text())
	case protocol.KindList:
		if len(v.Elems()) == 0 {
			return ast.InternedEmptyArray
		}
		elems := make([]*ast.Term, len(v.Elems()))
		for i, e := range v.Elems() {
			elems[i] = b.value(e, everything)
		}
		return ast.ArrayTerm(elems...)
	case protocol.KindObject:
		n := len(v.Fields())
		if !want.all {
			n = min(n, len(want.order))
		}
		pairs := make([][2]*ast.Term, 0, n)
		for _, f := range v.Fields() {
			if w := want.at(f.Name); w != nil {
				key := w.key
				if key == nil {
					key = b.word(f.Name)
				}
				pairs = append(pairs, [2]*ast.Term{key, b.value(f.Value, w)})
			}
		}
		if len(pairs) == 0 {
			return ast.InternedEmptyObject
		}
		return ast.NewTerm(ast.NewObject(pairs...))
	}
	return ast.NullTerm()
}
