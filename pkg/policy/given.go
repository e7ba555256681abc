package policy

import (
	"context"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// read reads what is to be in force. e.mu is held.
func (e *Engine) read(cfg config.Policy, opt Options) (*tree, error) {
	if e.given != nil {
		return e.given.tree, nil
	}
	return readTree(cfg.Enforce, opt)
}

// from names what is to be in force. e.mu is held.
func (e *Engine) from(cfg config.Policy) string {
	if e.given != nil {
		return e.given.Name()
	}
	return cfg.Enforce
}

func (e *Engine) isGiven() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.given != nil
}

// Put puts a set in force in place of the directory, which is not looked at any
// more. On an error everything stays as it was.
func (e *Engine) Put(ctx context.Context, src *Source) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	given, tried := e.given, e.tried
	e.given = src
	if err := e.load(ctx, e.cfg, true); err != nil {
		e.given, e.tried = given, tried
		return err
	}
	return nil
}

// Check reports why a set could not be put in force, and nil if it could.
func (e *Engine) Check(ctx context.Context, src *Source) error {
	_, err := e.compile(ctx, src)
	return err
}

// compile makes a set of a source as it would be in force.
func (e *Engine) compile(ctx context.Context, src *Source) (*Set, error) {
	e.mu.Lock()
	opt := e.options(e.cfg)
	e.mu.Unlock()
	return compile(ctx, src.tree, opt)
}

// Nothing returns a set that allows nothing and says why. It stands where the set
// that should decide is not there yet.
func Nothing(why string) *Source {
	t := &tree{dir: "(none)", files: []file{
		{"authz.rego", roleRego, []byte(nothing)},
		{"enrolment.rego", roleRego, []byte(nobody)},
		{"data.json", roleData, []byte(`{"none": ` + quote(why) + `}`)},
	}}
	t.revision = revisionOf(t.files)
	return &Source{tree: t}
}

const nothing = `package anteroom.authz

decision := {"allow": false, "reasons": [], "denials": [data.none], "obligations": []}

allow contains data.none if false
`

const nobody = `package anteroom.enrolment

decision := {"allow": false, "reasons": [], "denials": [data.none]}
`
