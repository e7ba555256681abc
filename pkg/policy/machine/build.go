package machine

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// A builder makes a program of a plan.
type builder struct {
	policy   *ir.Policy
	data     *ast.Term
	prog     *Program
	strings  []*ast.Term
	builtins map[string]*ir.BuiltinFunc
	source   map[string]*ir.Func
	funcs    map[string]*function
	places   map[placeKey]int
}

type placeKey struct {
	in  int
	key string
}

// A value is what is known of an operand while the program is made: a constant, a
// part of the input, or just where it will be.
type value struct {
	term  *ast.Term // a constant, if not nil
	place int       // a part of the input, if input is set
	input bool
	local int // the local, if it is neither
}

// A scope is what is known of locals in a block and the blocks inside it.
type scope struct {
	outer *scope
	vars  map[ir.Local]value
}

func (s *scope) find(l ir.Local) (value, bool) {
	for ; s != nil; s = s.outer {
		if v, ok := s.vars[l]; ok {
			return v, true
		}
	}
	return value{}, false
}

// A maker makes one function.
type maker struct {
	*builder
	index map[ir.Local]int // where locals are kept
	// What one of the function's own blocks does with each local: plans use the
	// same ones in each.
	writes map[ir.Local]int
	reads  map[ir.Local]int
	adds   map[ir.Local]int  // statements that add to the collection in it
	found  map[ir.Local]bool // it gets something that was there before
	loose  map[ir.Local]bool // something adds to it that the same block did not surely make just before
	// handed are the locals that some block reads before it writes them.
	handed map[ir.Local]bool
}

// slot returns where a local is kept.
func (m *maker) slot(l ir.Local) int {
	i, ok := m.index[l]
	if !ok {
		i = len(m.index)
		m.index[l] = i
	}
	return i
}

// entry makes a function of a plan. It ends by putting an object with the member
// "result" into the set of results, of which only the member is wanted.
func (b *builder) entry(p *ir.Plan) (*function, error) {
	if len(p.Blocks) != 1 {
		return nil, unsupported("more blocks than one")
	}
	stmts := p.Blocks[0].Stmts
	n := len(stmts) - 3
	if n < 0 {
		return nil, unsupported("a plan that gives nothing")
	}
	object, ok1 := stmts[n].(*ir.MakeObjectStmt)
	insert, ok2 := stmts[n+1].(*ir.ObjectInsertStmt)
	add, ok3 := stmts[n+2].(*ir.ResultSetAddStmt)
	if !ok1 || !ok2 || !ok3 || insert.Object != object.Target || add.Value != object.Target {
		return nil, unsupported("a plan that ends in another way")
	}
	out, ok := plain(insert.Value).(ir.Local)
	if !ok {
		return nil, unsupported("a constant result")
	}
	body := append(append([]ir.Stmt{}, stmts[:n]...), &ir.ReturnLocalStmt{Source: out})
	f := &function{name: p.Name, memo: -1}
	return f, b.fill(f, nil, []*ir.Block{{Stmts: body}})
}

// function returns the function of a name. Rules do not call themselves, nor do
// their plans.
func (b *builder) function(name string) (*function, error) {
	if f := b.funcs[name]; f != nil {
		if f.blocks == nil {
			return nil, unsupported("%s calls itself", name)
		}
		return f, nil
	}
	src := b.source[name]
	if len(src.Params) < 2 || src.Params[0] != ir.Input || src.Params[1] != ir.Data {
		return nil, unsupported("the parameters of %s", name)
	}
	f := &function{name: name, memo: -1}
	b.funcs[name] = f
	if len(src.Params) == 2 {
		f.memo = b.prog.funcs
		b.prog.funcs++
	}
	return f, b.fill(f, src.Params[2:], src.Blocks)
}

func (b *builder) fill(f *function, params []ir.Local, blocks []*ir.Block) error {
	m := &maker{builder: b, index: map[ir.Local]int{}, handed: map[ir.Local]bool{}}
	for _, bl := range blocks {
		m.count(bl)
		if m.writes[ir.Input] > 0 || m.writes[ir.Data] > 0 {
			return unsupported("input or data that is written to")
		}
	}
	top := &scope{vars: map[ir.Local]value{
		ir.Input: {input: true},
		ir.Data:  {term: b.data},
	}}
	for _, p := range params {
		f.params = append(f.params, m.slot(p))
	}
	out := make([]block, 0, len(blocks))
	for _, bl := range blocks {
		m.count(bl)
		// What is looked up belongs to whoever made it, and perhaps to all runs: it
		// must not be added to.
		for l := range m.loose {
			if m.found[l] {
				return unsupported("adding to a collection that is looked up")
			}
		}
		made, err := m.block(top, bl)
		if err != nil {
			return err
		}
		out = append(out, made)
	}
	f.blocks, f.locals = out, len(m.index)
	return nil
}

// count counts what one of the function's own blocks does with each local.
func (m *maker) count(b *ir.Block) {
	m.writes, m.reads, m.adds = map[ir.Local]int{}, map[ir.Local]int{}, map[ir.Local]int{}
	m.found, m.loose = map[ir.Local]bool{}, map[ir.Local]bool{}
	m.countIn(b)
}

func (m *maker) countIn(b *ir.Block) {
	// Else branches use the same locals again, each for its own: what a block has made
	// further up is what it adds to, whatever others keep there.
	made := map[ir.Local]bool{}
	for _, s := range b.Stmts {
		for _, l := range read(s) {
			m.reads[l]++
			m.handed[l] = m.handed[l] || m.writes[l] == 0
		}
		for _, l := range written(s) {
			m.writes[l]++
			delete(made, l)
		}
		if l, ok := addsTo(s); ok {
			m.adds[l]++
			if !made[l] {
				m.loose[l] = true
			}
		}
		if l, ok := finds(s); ok {
			m.found[l] = true
		}
		switch s := s.(type) {
		case *ir.MakeArrayStmt, *ir.MakeObjectStmt, *ir.MakeSetStmt:
			made[written(s)[0]] = true
		case *ir.BlockStmt:
			clear(made)
			for _, inner := range s.Blocks {
				m.countIn(inner)
			}
		case *ir.ScanStmt:
			clear(made)
			m.countIn(s.Block)
		case *ir.NotStmt:
			clear(made)
			m.countIn(s.Block)
		}
	}
}

// written returns the locals that a statement writes.
func written(s ir.Stmt) []ir.Local {
	switch s := s.(type) {
	case *ir.CallStmt:
		return []ir.Local{s.Result}
	case *ir.DotStmt:
		return []ir.Local{s.Target}
	case *ir.LenStmt:
		return []ir.Local{s.Target}
	case *ir.ScanStmt:
		return []ir.Local{s.Key, s.Value}
	case *ir.AssignIntStmt:
		return []ir.Local{s.Target}
	case *ir.AssignVarStmt:
		return []ir.Local{s.Target}
	case *ir.AssignVarOnceStmt:
		return []ir.Local{s.Target}
	case *ir.ResetLocalStmt:
		return []ir.Local{s.Target}
	case *ir.MakeNullStmt:
		return []ir.Local{s.Target}
	case *ir.MakeNumberIntStmt:
		return []ir.Local{s.Target}
	case *ir.MakeNumberRefStmt:
		return []ir.Local{s.Target}
	case *ir.MakeArrayStmt:
		return []ir.Local{s.Target}
	case *ir.MakeObjectStmt:
		return []ir.Local{s.Target}
	case *ir.MakeSetStmt:
		return []ir.Local{s.Target}
	case *ir.ObjectMergeStmt:
		return []ir.Local{s.Target}
	}
	return nil
}

// addsTo returns the local with the collection that a statement adds to.
func addsTo(s ir.Stmt) (l ir.Local, ok bool) {
	switch s := s.(type) {
	case *ir.ArrayAppendStmt:
		return s.Array, true
	case *ir.SetAddStmt:
		return s.Set, true
	case *ir.ObjectInsertStmt:
		return s.Object, true
	case *ir.ObjectInsertOnceStmt:
		return s.Object, true
	}
	return 0, false
}

// finds returns the local that a statement puts something into that it did not make.
func finds(s ir.Stmt) (l ir.Local, ok bool) {
	switch s := s.(type) {
	case *ir.DotStmt:
		return s.Target, true
	case *ir.CallStmt:
		return s.Result, true
	case *ir.AssignVarStmt:
		return s.Target, true
	case *ir.AssignVarOnceStmt:
		return s.Target, true
	}
	return 0, false
}

// read returns the locals that a statement reads.
func read(s ir.Stmt) []ir.Local {
	var out []ir.Local
	ops := func(ops ...ir.Operand) []ir.Local {
		for _, o := range ops {
			if l, ok := plain(o).(ir.Local); ok {
				out = append(out, l)
			}
		}
		return out
	}
	switch s := s.(type) {
	case *ir.ReturnLocalStmt:
		return []ir.Local{s.Source}
	case *ir.CallStmt:
		return ops(s.Args...)
	case *ir.DotStmt:
		return ops(s.Source, s.Key)
	case *ir.LenStmt:
		return ops(s.Source)
	case *ir.ScanStmt:
		return []ir.Local{s.Source}
	case *ir.AssignVarStmt:
		return ops(s.Source)
	case *ir.AssignVarOnceStmt:
		return ops(s.Source)
	case *ir.EqualStmt:
		return ops(s.A, s.B)
	case *ir.NotEqualStmt:
		return ops(s.A, s.B)
	case *ir.IsArrayStmt:
		return ops(s.Source)
	case *ir.IsObjectStmt:
		return ops(s.Source)
	case *ir.IsSetStmt:
		return ops(s.Source)
	case *ir.IsDefinedStmt:
		return []ir.Local{s.Source}
	case *ir.IsUndefinedStmt:
		return []ir.Local{s.Source}
	case *ir.ArrayAppendStmt:
		return append(ops(s.Value), s.Array)
	case *ir.SetAddStmt:
		return append(ops(s.Value), s.Set)
	case *ir.ObjectInsertStmt:
		return append(ops(s.Key, s.Value), s.Object)
	case *ir.ObjectInsertOnceStmt:
		return append(ops(s.Key, s.Value), s.Object)
	case *ir.ObjectMergeStmt:
		return []ir.Local{s.A, s.B}
	}
	return nil
}

// know notes what a local is, in a scope and the scopes inside it, from here on.
// Nothing is noted of one that several statements of the block write.
func (m *maker) know(sc *scope, l ir.Local, v value) {
	if m.writes[l] == 1 && m.adds[l] == 0 {
		sc.vars[l] = v
	}
}

// plain returns the value of an operand, which is a pointer to it in plans that
// were read from JSON.
func plain(o ir.Operand) ir.Val {
	switch v := o.Value.(type) {
	case *ir.Local:
		return *v
	case *ir.StringIndex:
		return *v
	case *ir.Bool:
		return *v
	}
	return o.Value
}

// value returns what an operand is.
func (m *maker) value(sc *scope, o ir.Operand) (value, error) {
	switch v := plain(o).(type) {
	case ir.Local:
		return m.local(sc, v), nil
	case ir.StringIndex:
		return value{term: m.strings[v]}, nil
	case ir.Bool:
		return value{term: ast.InternedTerm(bool(v))}, nil
	}
	return value{}, unsupported("an operand of type %T", o.Value)
}

func (m *maker) local(sc *scope, l ir.Local) value {
	if v, ok := sc.find(l); ok {
		return v
	}
	return value{local: m.slot(l)}
}

// placeOf returns the part of the input at a key of another.
func (b *builder) placeOf(in int, key *ast.Term) int {
	k := placeKey{in, key.String()}
	i, ok := b.places[k]
	if !ok {
		i = len(b.prog.places)
		b.places[k] = i
		p := place{in: in, key: key}
		outer := b.prog.places[in]
		if name, ok := key.Value.(ast.String); ok && outer.key == nil {
			p = place{path: append(slices.Clip(outer.path), string(name))}
		}
		b.prog.places = append(b.prog.places, p)
	}
	return i
}

// get returns what v is in a run; nil is undefined.
func (v value) get(r *Run, l []*ast.Term) *ast.Term {
	switch {
	case v.term != nil:
		return v.term
	case v.input:
		return r.place(v.place)
	}
	return l[v.local]
}
