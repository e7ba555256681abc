package policy

import (
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
}

func newDocumentsPool() *sync.Pool { return &sync.Pool{New: func() any { return newDocuments() }} }

// planOf makes the plan for a set's rules, which have been compiled.
func planOf(can *possible, modules map[string]*ast.Module, want *paths) (*plan, error) {
	l := leanOf(can, modules, want)
	fast := can.c
	if l.pruned {
		fast = newCompiler(capabilities())
		if fast.Compile(l.modules); fast.Failed() {
			return nil, fmt.Errorf("compile what matters of the set: %w", fast.Errors)
		}
	}
	p := &plan{filled: l.filled, terms: filledTerms(l.filled), documents: newDocumentsPool()}
	var err error
	if p.whole, err = queryOf(fast, decisionQuery()); err == nil {
		p.direct, err = directOf(fast, modules, l.none)
	}
	return p, err
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

// direct asks for what the shipped decision rule combines, and combines it.
func (e *evaluation) direct(p *plan) (a answered, fault string, err error) {
	var deny, allow ast.Set
	if err := e.ask(p.direct.sets, func(r topdown.QueryResult) {
		deny, _ = r[denyVar].Value.(ast.Set)
		allow, _ = r[allowVar].Value.(ast.Set)
	}); err != nil {
		return a, "", err
	}
	if deny == nil || allow == nil { // not the sets the rule is made for: let it say so
		return e.whole(p)
	}
	switch {
	case deny.Len() > 0:
		return answered{defined: true, allow: no, reasons: allow, denials: deny, obligations: noElements}, "", nil
	case allow.Len() == 0:
		sentence, ok := e.silence()
		if !ok {
			return e.whole(p)
		}
		return answered{defined: true, allow: no, reasons: allow, denials: ast.NewSet(sentence), obligations: noElements}, "", nil
	}
	a = answered{defined: true, allow: yes, reasons: allow, denials: noElements, obligations: noElements}
	if p.direct.obligations == nil {
		return a, "", nil
	}
	a.obligations = nil
	if err := e.ask(p.direct.obligations, func(r topdown.QueryResult) { a.obligations = r[valueVar].Value }); err != nil {
		return answered{}, "", err
	}
	if a.obligations == nil {
		return e.whole(p)
	}
	return a, "", nil
}

// silence returns what the shipped rule of that name says when nothing allows and
// nothing denies; ok is false if it is to be asked itself.
func (e *evaluation) silence() (sentence *ast.Term, ok bool) {
	var parts [len(silencePaths)]any
	for i, path := range silencePaths {
		v, err := e.input.Value.Find(path)
		if err != nil {
			return nil, false
		}
		s, ok := v.(ast.String)
		if !ok {
			return nil, false
		}
		parts[i] = string(s)
	}
	return ast.StringTerm(strings.TrimSpace(fmt.Sprintf(silenceFormat, parts[:]...))), true
}

// What silence says; it is in the shipped rule, word for word.
const silenceFormat = "nothing allows a device of class %q to do this: %s %s"

var silencePaths = [...]ast.Ref{
	{ast.StringTerm("device"), ast.StringTerm("class")},
	{ast.StringTerm("request"), ast.StringTerm("action")},
	{ast.StringTerm("request"), ast.StringTerm("resource")},
}
