package policy

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/types"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/policies"
)

// maxErrors bounds how many problems of one kind the compiler reports; whoever
// has fifty repairs the first ones and looks again.
const maxErrors = 50

// The rules a set must have.
var (
	entryRef = ast.MustParseRef("data.anteroom.authz.decision")
	allowRef = ast.MustParseRef("data.anteroom.authz.allow")
)

// A Set is a policy set: rules and data loaded together. It never changes and
// is safe for concurrent use.
type Set struct {
	dir      string
	revision string
	opt      Options
	loaded   time.Time

	compiler *ast.Compiler
	store    storage.Store
	// txn is one read transaction that lives as long as the set. Nothing ever
	// writes to the store, so that any number of evaluations can share it.
	txn      storage.Transaction
	data     data
	decision *query // of the rules as they were written, for who asks why
	plan     *plan
	reach    *reach
	byClass  byClass
	builder  *builder
	cache    *cache // nil if nothing is remembered
	passing  bool   // see passes
	// enrolment asks who may be given a certificate; nil if no rule says. Its
	// rules are no part of a decision on a transaction.
	enrolment     *query
	enrolmentUses map[*ast.Rule]bool
	enrolmentWant *paths          // what of the input they can read
	enrolmentPlan *planned        // nil if they are of a kind that is not planned
	said          map[string]bool // the sentences that stand in its rules
	modules       int
	mirrors       map[string]string // backends, and where they are named
	files         []string          // names of the files that decide
	tables        map[string]*datum // the data's members, and where they were written
}

// Load reads, compiles and analyses the policy set in dir, which may also be a
// bundle in OPA's format. It returns a
// [*LoadError] that lists everything wrong with it.
func Load(ctx context.Context, dir string, opt Options) (*Set, error) {
	opt = opt.withDefaults()
	t, err := readTree(dir, opt)
	if err != nil {
		return nil, err
	}
	return compile(ctx, t, opt)
}

// Check reports what [Load] would find wrong with the set in dir.
func Check(ctx context.Context, dir string, opt Options) error {
	_, err := Load(ctx, dir, opt)
	return err
}

// compile makes a set of what was read.
func compile(ctx context.Context, t *tree, opt Options) (_ *Set, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var ps problems
	refuse := func() error {
		return &LoadError{Dir: t.dir, Problems: ps.sorted(), Revision: t.revision}
	}
	// A set that the compiler cannot bear must not take the running gateway with
	// it when it is saved.
	defer func() {
		if r := recover(); r != nil {
			ps.add("", 0, "the compiler failed: %v", r)
			err = refuse()
		}
	}()
	b := build(t, func(f *file) bool { return !f.isTest() }, &ps)
	t.checkRoots(b, &ps)
	if len(ps) == 0 {
		checkData(t.files, b.data, &ps)
		b.compiler.Compile(b.modules)
		if b.compiler.Failed() {
			ps.addRego("", b.compiler.Errors)
		}
	}
	if len(ps) == 0 {
		checkEntry(b.compiler, &ps)
		checkDuties(b.modules, &ps)
	}
	onEnrolment := len(ps) == 0 && checkEnrolment(b, &ps)
	if len(ps) > 0 {
		return nil, refuse()
	}

	doc := b.data.ast().(ast.Object)
	s := &Set{
		dir: t.dir, revision: t.revision, opt: opt, loaded: opt.Clock(),
		compiler: b.compiler,
		store:    inmem.NewFromASTObject(doc),
		data:     data{doc},
		tables:   map[string]*datum{},
		modules:  len(b.modules),
		mirrors:  mirrorsIn(b.modules, b.data),
	}
	for name, d := range b.data.obj {
		s.tables[name] = &datum{file: d.file, line: d.line}
	}
	for i := range t.files {
		if !t.files[i].isTest() {
			s.files = append(s.files, t.files[i].name)
		}
	}
	if s.txn, err = s.store.NewTransaction(ctx); err != nil {
		ps.add("", 0, "open the data: %s", err)
		return nil, refuse()
	}
	s.reach = reachOf(s.compiler, entryRef)
	// What stands in its rules is one thing, and what can be read another: a rule
	// that the data switch off reads nothing.
	can := newPossible(s.compiler, b.modules, doc)
	s.reach.input = reachWithout(s.compiler, entryRef, can.dead(b.modules, nil)).input
	s.byClass = can.byClassOf(b.modules, entryRef)
	if s.decision, err = queryOf(s.compiler, decisionQuery()); err == nil {
		s.plan, err = planOf(ctx, can, b.modules, s.reach.input)
	}
	if err != nil {
		ps.addRego("", err)
		return nil, refuse()
	}
	if onEnrolment {
		r := reachOf(s.compiler, enrolRef)
		s.enrolmentUses, s.enrolmentWant = r.used, r.input
		if s.enrolment, err = queryOf(s.compiler, ast.NewBody(ast.Equality.Expr(ast.NewTerm(enrolRef), ast.VarTerm(string(resultVar))))); err != nil {
			ps.addRego("", err)
			return nil, refuse()
		}
		s.enrolmentPlan = enrolmentPlanOf(ctx, s.compiler, b.modules, s.enrolmentUses, doc)
	}
	s.said = saidIn(b.modules)
	s.builder = newBuilder(opt.Location, s.reach.input, b.data, b.modules)
	s.passing = passes(s.reach.input)
	if len(s.reach.clock) == 0 {
		s.cache = newCache(opt.CacheEntries)
	}
	return s, nil
}

// saidIn returns the texts that rules put into sets word for word: sentences
// that hold nothing of any request.
func saidIn(modules map[string]*ast.Module) map[string]bool {
	out := map[string]bool{}
	for _, m := range modules {
		for _, r := range m.Rules {
			if r.Head.Key == nil {
				continue
			}
			if s, ok := r.Head.Key.Value.(ast.String); ok {
				out[string(s)] = true
			}
		}
	}
	return out
}

// resultVar is the variable of the query that the decision is bound to.
const resultVar = ast.Var("decision")

// A built is a set's parts, ready to be compiled.
type built struct {
	compiler *ast.Compiler
	modules  map[string]*ast.Module
	data     *datum
}

func (b *built) store() storage.Store {
	return inmem.NewFromASTObject(b.data.ast().(ast.Object))
}

// A data is the data document as OPA's cache of what it read from the store. As
// nothing ever changes there, all of it is in the cache from the start, and all
// evaluations share it; that saves each of them a fifth of its allocations.
type data struct{ doc ast.Object }

// Get returns what ref, which begins with data, refers to, or nil to have the
// store asked.
func (d data) Get(ref ast.Ref) ast.Value {
	if len(ref) < 2 {
		return nil
	}
	v, err := d.doc.Find(ref[1:])
	if err != nil {
		return nil
	}
	return v
}

// Put has nothing to add.
func (d data) Put(ast.Ref, ast.Value) {}

// build parses the files that are wanted and sets up a compiler for them.
func build(t *tree, want func(*file) bool, ps *problems) *built {
	caps := capabilities()
	b := &built{modules: map[string]*ast.Module{}}
	for i := range t.files {
		f := &t.files[i]
		if !want(f) || f.role != roleRego && f.role != roleRegoTest {
			continue
		}
		m, err := ast.ParseModuleWithOpts(f.name, string(f.body), ast.ParserOptions{
			ProcessAnnotation: true,
			RegoVersion:       ast.RegoV1,
			Capabilities:      caps,
		})
		switch {
		case err != nil:
			ps.addRego(f.name, err)
		case m == nil:
			ps.add(f.name, 1, "holds no package; delete it, or give it one")
		case !removedUses(m, f.name, ps):
			b.modules[f.name] = m
		}
	}
	b.data = readData(t.files, func(f *file) bool {
		return want(f) && (f.role == roleData || f.role == roleDataTest)
	}, ps)

	b.compiler = newCompiler(caps).
		WithStrict(true).
		WithUseTypeCheckAnnotations(true).
		WithPathConflictsCheck(func(path []string) (bool, error) { return b.data.has(path), nil }).
		WithSchemas(readSchemas(t.files, ps)).
		SetErrorLimit(maxErrors)
	return b
}

func newCompiler(caps *ast.Capabilities) *ast.Compiler {
	return ast.NewCompiler().WithCapabilities(caps).WithDefaultRegoVersion(ast.RegoV1)
}

// inputSchema is the schema of the whole input of a transaction, enrolmentSchema
// that of an enrolment. They lie in different folders, because the stock OPA program
// takes a schema for data, and the members of two in one folder for a conflict.
const (
	inputSchema     = schemaDir + "/input.json"
	enrolmentSchema = schemaDir + "/enrolment/input.json"
)

// readSchemas makes the JSON schemas of the set known to the compiler: input.json
// types input in every rule, and each file can be named in a METADATA schemas
// annotation by its path, as enrolment/input.json is by the rules on enrolment. A set
// without one of those two gets the shipped one.
func readSchemas(files []file, ps *problems) *ast.SchemaSet {
	set := ast.NewSchemaSet()
	put := func(name string, body []byte) {
		var raw any
		if path.Ext(name) != ".json" {
			ps.add(name, 0, "a schema is a .json file")
			return
		}
		if err := util.UnmarshalJSON(body, &raw); err != nil {
			ps.add(name, jsonErrorLine(body, err), "%s", err)
			return
		}
		ref := ast.SchemaRootRef.Copy()
		for _, p := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(name, schemaDir+"/"), ".json"), "/") {
			ref = append(ref, ast.StringTerm(p))
		}
		set.Put(ref, raw)
		if name == inputSchema {
			set.Put(ast.SchemaRootRef, raw)
		}
	}
	found := map[string]bool{}
	for i := range files {
		if f := &files[i]; f.role == roleSchema {
			put(f.name, f.body)
			found[f.name] = true
		}
	}
	for _, name := range []string{inputSchema, enrolmentSchema} {
		if found[name] {
			continue
		}
		body, err := fs.ReadFile(policies.FS, name)
		if err != nil {
			ps.add(name, 0, "%s", err)
			return set
		}
		put(name, body)
	}
	return set
}

func jsonErrorLine(body []byte, err error) int {
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return 1 + strings.Count(string(body[:min(se.Offset, int64(len(body)))]), "\n")
	}
	return 0
}

// checkEntry finds out before the first transaction that a set could never
// allow one.
func checkEntry(c *ast.Compiler, ps *problems) {
	for _, ref := range []ast.Ref{entryRef, allowRef} {
		if len(c.GetRules(ref)) == 0 {
			ps.add("", 0, "no rule defines %s, so that every transaction would be denied; is this the right directory?", ref)
		}
	}
	for _, r := range c.GetRulesExact(entryRef) {
		if len(r.Head.Args) > 0 {
			ps.add(r.Loc().File, r.Loc().Row, "%s is a function; it must be a rule without arguments", entryRef)
		}
	}
	if len(*ps) > 0 {
		return
	}
	t := c.TypeEnv.GetByRef(entryRef)
	if t == nil {
		return
	}
	obj, ok := t.(*types.Object)
	if !ok {
		if _, dynamic := t.(types.Any); !dynamic {
			ps.add("", 0, "%s must be an object with allow, reasons, denials and obligations, and is %s", entryRef, types.Sprint(t))
		}
		return
	}
	for _, p := range obj.StaticProperties() {
		if name, ok := p.Key.(string); ok && !slices.Contains(decisionFields, name) {
			ps.add("", 0, "%s has a field %q; only %s are understood", entryRef, name, strings.Join(decisionFields, ", "))
		}
	}
}

// Dir returns the directory the set was loaded from.
func (s *Set) Dir() string { return s.dir }

// Revision names the set: a hash of everything in it that decides.
func (s *Set) Revision() string { return s.revision }

// Loaded returns when the set was loaded.
func (s *Set) Loaded() time.Time { return s.loaded }

// Modules returns the number of rule files in the set.
func (s *Set) Modules() int { return s.modules }

// Reaches reports whether the decision can depend on the fact at path below
// input, such as "request", "fhir", "patient". False is a promise: leaving the
// fact out changes no decision.
func (s *Set) Reaches(path ...string) bool { return s.reach.input.reaches(path) }

// ReachesFor is Reaches for the decisions on one device: what the rules read only
// of devices of other classes is not in question. rec may be nil.
func (s *Set) ReachesFor(rec *device.Record, path ...string) bool {
	return s.byClass.of(rec, s.reach.input).reaches(path)
}

// Reads lists, sorted, the parts of the input that the decision can depend on,
// such as "input.device.class". A final "?" marks one of which only its
// existence matters.
func (s *Set) Reads() []string {
	var out []string
	s.reach.input.list("input", &out)
	sort.Strings(out)
	return out
}

// Uncacheable lists the uses of built-in functions that make a decision depend
// on more than the question's facts, such as the clock. It is empty for a set
// whose every answer to equal questions is equal.
func (s *Set) Uncacheable() []Problem { return slices.Clone(s.reach.clock) }
