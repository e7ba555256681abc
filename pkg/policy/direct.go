package policy

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/anteroom-iomt/anteroom/policies"
)

// A direct is a shorter way to the value of the decision rule, for sets in which
// that rule is the shipped one: the sets it combines are asked for by
// themselves, and combined here. OPA takes a quarter less time for them than for
// them and the rule, and gives the same.
type direct struct {
	sets        *query // deny and allow, in the order in which the rule asks
	obligations *query // nil if there are never any
}

// A query is one that was compiled for a set.
type query struct {
	body     ast.Body
	querier  ast.QueryCompiler
	compiler *ast.Compiler
}

// queryOf compiles a query of rules that have been compiled.
func queryOf(c *ast.Compiler, body ast.Body) (*query, error) {
	q := &query{querier: c.QueryCompiler(), compiler: c}
	var err error
	q.body, err = q.querier.Compile(body)
	return q, err
}

// A plan is how a set's decisions are asked for.
type plan struct {
	whole  *query  // the decision rule
	direct *direct // the shorter way there; nil if there is none
	// filled are the lists that are to be told apart in the input, and terms what
	// says so; see lean.
	filled    []filledPath
	terms     []*ast.Term
	documents *sync.Pool // of *documents
	planned   *planned   // nil if the rules are of a kind that is not planned
	unplanned string     // why that is so
}

func newDocumentsPool() *sync.Pool { return &sync.Pool{New: func() any { return newDocuments() }} }

// planOf makes the plan for a set's rules, which have been compiled.
func planOf(ctx context.Context, can *possible, modules map[string]*ast.Module, want *paths) (*plan, error) {
	// A set that reads all of the input would also read what is added to it.
	l := leanOf(can, modules, !want.all && want.at(filledName) == nil)
	fast := can.c
	if l.pruned {
		fast = newCompiler(capabilities())
		if fast.Compile(l.modules); fast.Failed() {
			return nil, fmt.Errorf("compile what matters of the set: %w", fast.Errors)
		}
	}
	p := &plan{filled: l.filled, terms: filledTerms(l.filled), documents: newDocumentsPool()}
	var err error
	if p.whole, err = queryOf(fast, decisionQuery()); err != nil {
		return nil, err
	}
	if p.direct, err = directOf(fast, modules, l.none); err != nil {
		return nil, err
	}
	if bare := leanOf(can, modules, false); bare.pruned {
		modules = bare.modules
	}
	p.planned, p.unplanned = plannedOf(ctx, modules, can.doc, p.direct)
	return p, nil
}

// decisionQuery asks for the decision rule.
func decisionQuery() ast.Body {
	return ast.NewBody(ast.Equality.Expr(ast.NewTerm(entryRef), ast.VarTerm(string(resultVar))))
}

// The variables of the queries.
const (
	denyVar  = ast.Var("deny")
	allowVar = ast.Var("allow")
	valueVar = ast.Var("value")
)

// combining are the rules of the shipped decision.rego that direct stands for.
var combining = map[ast.Var]bool{"decision": true, "permitted": true, "silence": true}

// shippedDecision is where the shipped set defines them.
const shippedDecision = "authz/decision.rego"

// directOf returns the short way, or nil if the set decides in a way of its own.
func directOf(c *ast.Compiler, modules map[string]*ast.Module, none map[ast.Var]bool) (*direct, error) {
	text, err := fs.ReadFile(policies.FS, shippedDecision)
	if err != nil {
		return nil, err
	}
	ours, err := ast.ParseModuleWithOpts(shippedDecision, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, err
	}
	var theirs []*ast.Rule
	for _, m := range modules {
		if !m.Package.Path.Equal(ours.Package.Path) {
			continue
		}
		for _, r := range m.Rules {
			if combining[r.Head.Name] {
				theirs = append(theirs, r)
			}
		}
	}
	i := 0
	for _, r := range ours.Rules {
		if !combining[r.Head.Name] {
			continue
		}
		if i == len(theirs) || !sameRule(r, theirs[i]) {
			return nil, nil
		}
		i++
	}
	if i != len(theirs) {
		return nil, nil
	}
	// A rule that looks at one of these sets from elsewhere, or replaces one, is
	// not in the way: it is part of what the queries below evaluate.
	d := &direct{}
	for _, q := range []struct {
		to   **query
		text string
	}{
		{&d.sets, "deny = data.anteroom.authz.deny; allow = data.anteroom.authz.allow"},
		{&d.obligations, "value = data.anteroom.authz.obligations"},
	} {
		if *q.to, err = queryOf(c, ast.MustParseBody(q.text)); err != nil {
			return nil, err
		}
	}
	if none["obligations"] {
		d.obligations = nil
	}
	return d, nil
}

// sameRule reports whether two rules are alike but for what is written about
// them.
func sameRule(a, b *ast.Rule) bool {
	x, y := a.Copy(), b.Copy()
	for _, r := range []*ast.Rule{x, y} {
		for ; r != nil; r = r.Else {
			r.Annotations = nil
		}
	}
	return x.Equal(y)
}

// The values that direct hands on: nothing, and whether to allow.
var (
	noElements = ast.NewSet()
	yes        = ast.Boolean(true)
	no         = ast.Boolean(false)
)

// direct asks for what the shipped decision rule combines, and combines it; ok is
// false if the rule itself has to be asked.
func (e *evaluation) direct(p *plan) (a answered, ok bool, err error) {
	var deny, allow ast.Value
	if err := e.ask(p.direct.sets, func(r topdown.QueryResult) {
		deny, allow = r[denyVar].Value, r[allowVar].Value
	}); err != nil {
		return a, false, err
	}
	return e.combine(p, deny, allow, func() (v ast.Value, err error) {
		err = e.ask(p.direct.obligations, func(r topdown.QueryResult) { v = r[valueVar].Value })
		return v, err
	})
}

// combine does what the shipped decision rule does; ok is false if that rule
// itself has to be asked. obligations is called only if they are needed.
func (e *evaluation) combine(p *plan, denials, reasons ast.Value, obligations func() (ast.Value, error)) (a answered, ok bool, err error) {
	deny, is1 := denials.(ast.Set)
	allow, is2 := reasons.(ast.Set)
	if !is1 || !is2 { // not the sets the rule is made for: let it say so
		return a, false, nil
	}
	switch {
	case deny.Len() > 0:
		return answered{defined: true, allow: no, reasons: allow, denials: deny, obligations: noElements}, true, nil
	case allow.Len() == 0:
		sentence, ok := e.silence()
		if !ok {
			return a, false, nil
		}
		return answered{defined: true, allow: no, reasons: allow, denials: ast.NewSet(sentence), obligations: noElements}, true, nil
	}
	a = answered{defined: true, allow: yes, reasons: allow, denials: noElements, obligations: noElements}
	if p.direct.obligations == nil {
		return a, true, nil
	}
	if a.obligations, err = obligations(); err != nil {
		return answered{}, false, err
	}
	return a, a.obligations != nil, nil
}

// silence returns what the shipped rule of that name says when nothing allows and
// nothing denies; ok is false if it is to be asked itself.
func (e *evaluation) silence() (sentence *ast.Term, ok bool) {
	var parts [len(silencePaths)]any
	for i, path := range silencePaths {
		t := e.in.At(path)
		if t == nil {
			return nil, false
		}
		s, ok := t.Value.(ast.String)
		if !ok {
			return nil, false
		}
		parts[i] = string(s)
	}
	return ast.StringTerm(strings.TrimSpace(fmt.Sprintf(silenceFormat, parts[:]...))), true
}

// What silence says; it is in the shipped rule, word for word.
const silenceFormat = "nothing allows a device of class %q to do this: %s %s"

var silencePaths = [...][]string{{"device", "class"}, {"request", "action"}, {"request", "resource"}}
