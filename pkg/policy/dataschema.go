package policy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// dataSchema is the schema of the set's whole data document. Without one data is
// free; with it a misspelt key is an error at load, where it would otherwise be
// a permission that silently is not there.
const dataSchema = schemaDir + "/data/schema.json"

// checkData compares the data files with the set's schema of them.
func checkData(files []file, data *datum, ps *problems) {
	var body []byte
	for i := range files {
		if files[i].name == dataSchema {
			body = files[i].body
		}
	}
	if body == nil {
		return
	}
	schema, err := dataSchemaOf(body)
	if err != nil {
		ps.add(dataSchema, 0, "%s", err)
		return
	}
	doc, err := ast.JSON(data.ast())
	if err != nil {
		ps.add(dataSchema, 0, "read the data: %s", err)
		return
	}
	err = schema.Validate(doc)
	if ve, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		data.blame(schema, ve, ps)
	} else if err != nil {
		ps.add(dataSchema, 0, "%s", err)
	}
}

func dataSchemaOf(body []byte) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	if err := c.AddResource(dataSchema, doc); err != nil {
		return nil, err
	}
	s, err := c.Compile(dataSchema)
	if err != nil {
		return nil, fmt.Errorf("is no JSON schema: %w", err)
	}
	return s, nil
}

// noLoader keeps a schema from naming another: nothing is fetched.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s: a schema of a policy set refers to nothing outside itself", url)
}

// blame adds what the leaves of a validation error say, each with its place.
func (d *datum) blame(schema *jsonschema.Schema, ve *jsonschema.ValidationError, ps *problems) {
	misnamed := map[string]bool{}
	leaves(ve, func(leaf *jsonschema.ValidationError, unknown []string, says string) {
		if k, ok := leaf.ErrorKind.(*kind.PropertyNames); ok {
			if !misnamed[k.Property] {
				misnamed[k.Property] = true
				d.misnamed(schema, "data", k.Property, says, ps)
			}
			return
		}
		at := d.place(leaf.InstanceLocation)
		name := strings.Join(append([]string{"data"}, leaf.InstanceLocation...), ".")
		if len(unknown) == 0 {
			ps.add(at.file, at.line, "%s: %s", name, says)
		}
		for _, p := range unknown {
			bad := at.obj[p]
			if bad == nil {
				bad = at
			}
			ps.add(bad.file, bad.line, "%s: %q is nothing that is known there%s", name, p, hint(schema, leaf.InstanceLocation, p))
		}
	})
}

// misnamed adds each place where a member has a name that the schema of names does
// not allow. The validator's own word on the place is overwritten as it goes on.
func (d *datum) misnamed(s *jsonschema.Schema, path, name, says string, ps *problems) {
	for s.Ref != nil {
		s = s.Ref
	}
	if bad := d.obj[name]; bad != nil && s.PropertyNames != nil && s.PropertyNames.Validate(name) != nil {
		if allowed := words(s.PropertyNames); len(allowed) > 0 {
			says = "it is nothing that is known there"
			if near := config.Nearest(name, allowed); near != "" {
				says += fmt.Sprintf(", did you mean %q?", near)
			}
		}
		ps.add(bad.file, bad.line, "%s: the name %q: %s", path, name, says)
	}
	for _, member := range slices.Sorted(maps.Keys(d.obj)) {
		if next := below(s, member); next != nil {
			d.obj[member].misnamed(next, path+"."+member, name, says, ps)
		}
	}
}

// words returns what an enumeration of texts allows.
func words(s *jsonschema.Schema) (out []string) {
	for s.Ref != nil {
		s = s.Ref
	}
	if s.Enum == nil {
		return nil
	}
	for _, v := range s.Enum.Values {
		if w, ok := v.(string); ok {
			out = append(out, w)
		}
	}
	return out
}

// leaves calls f with each of the mistakes that a validation error is made of:
// the members that the schema does not know, or else what it says.
func leaves(ve *jsonschema.ValidationError, f func(leaf *jsonschema.ValidationError, unknown []string, says string)) {
	if _, ok := ve.ErrorKind.(*kind.PropertyNames); ok {
		says := ""
		for _, c := range ve.Causes {
			leaves(c, func(_ *jsonschema.ValidationError, _ []string, why string) { says = why })
		}
		f(ve, nil, says)
		return
	}
	for _, c := range ve.Causes {
		leaves(c, f)
	}
	if len(ve.Causes) > 0 {
		return
	}
	if k, ok := ve.ErrorKind.(*kind.AdditionalProperties); ok {
		f(ve, k.Properties, "")
		return
	}
	f(ve, nil, ve.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
}

// hint says what a misspelt key was probably meant to be.
func hint(s *jsonschema.Schema, path []string, bad string) string {
	for _, name := range path {
		if s = below(s, name); s == nil {
			return ""
		}
	}
	for s.Ref != nil {
		s = s.Ref
	}
	names := slices.Sorted(maps.Keys(s.Properties))
	if near := config.Nearest(bad, names); near != "" {
		return fmt.Sprintf(", did you mean %q?", near)
	}
	return ", only " + strings.Join(names, ", ")
}

// below returns the schema of a member, or nil.
func below(s *jsonschema.Schema, name string) *jsonschema.Schema {
	for s.Ref != nil {
		s = s.Ref
	}
	if p := s.Properties[name]; p != nil {
		return p
	}
	if p, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
		return p
	}
	if p, ok := s.Items.(*jsonschema.Schema); ok {
		return p
	}
	return nil
}

// place returns the datum at a path, or the last one on the way that is known.
func (d *datum) place(path []string) *datum {
	for _, p := range path {
		next := d.obj[p]
		if next == nil {
			break
		}
		d = next
	}
	return d
}
