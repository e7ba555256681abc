package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"
	"github.com/open-policy-agent/opa/v1/ir"
)

// ErrUnsupported is wrapped by errors that say that a plan needs something this
// package does not do.
var ErrUnsupported = errors.New("not supported")

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// Plan has OPA plan rules: the modules, which have been parsed and are not
// changed, for the documents of the given names (see [Name]). What they need of
// built-in functions is among caps.
func Plan(ctx context.Context, modules map[string]*ast.Module, caps *ast.Capabilities, entries ...string) (*ir.Policy, error) {
	b := &bundle.Bundle{Data: map[string]any{}}
	b.Manifest.Init()
	b.SetRegoVersion(ast.RegoV1)
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: name, Path: name, Parsed: modules[name]})
	}
	c := compile.New().
		WithTarget(compile.TargetPlan).
		WithCapabilities(caps).
		WithRegoVersion(ast.RegoV1).
		WithPruneUnused(true).
		WithBundle(b).
		WithEntrypoints(entries...)
	if err := c.Build(ctx); err != nil {
		return nil, fmt.Errorf("plan the rules: %w", err)
	}
	var p ir.Policy
	if err := json.Unmarshal(c.Bundle().PlanModules[0].Raw, &p); err != nil {
		return nil, fmt.Errorf("read the plan of the rules: %w", err)
	}
	return &p, nil
}

// Name returns what the plan for the document at ref is called.
func Name(ref ast.Ref) (string, error) {
	if len(ref) < 2 || !ref[0].Equal(ast.DefaultRootDocument) {
		return "", unsupported("an entry that is not in data: %s", ref)
	}
	var names []string
	for _, t := range ref[1:] {
		s, ok := t.Value.(ast.String)
		if !ok || strings.Contains(string(s), "/") {
			return "", unsupported("an entry of this name: %s", ref)
		}
		names = append(names, string(s))
	}
	return strings.Join(names, "/"), nil
}
