package fhir

import (
	"slices"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Transaction adds what the interaction is to tx: protocol, action, resource, and
// the facts that policies see as input.request.fhir. Where a body could tell more
// and was not read, those facts are listed in tx.Omitted.
func (i *Interaction) Transaction(tx *protocol.Transaction) {
	tx.Protocol, tx.Action, tx.Resource = "fhir", i.code, i.typ
	if i.typ == "" {
		tx.Resource = levelSystem
	}
	if !i.read {
		tx.Omitted = append(tx.Omitted, i.BodyFacts()...)
	}
	tx.Facts = append(tx.Facts, protocol.Field{Name: "fhir", Value: i.facts()})
}

func (i *Interaction) facts() protocol.Value {
	s := &i.search
	patients := i.patients()
	n := 17 // those that are always there
	if i.compartment != "" {
		n++
	}
	if i.read {
		n += 3
	}
	searching := strings.HasPrefix(i.code, "search-") || strings.HasPrefix(i.code, "history-")
	if searching {
		n += 2
	}
	f := make([]protocol.Field, 0, n)
	add := func(name string, v protocol.Value) { f = append(f, protocol.Field{Name: name, Value: v}) }
	add("interaction", protocol.String(i.code))
	add("type", protocol.String(i.typ))
	add("id", sensitive(i.id))
	add("version", protocol.String(i.version))
	add("level", protocol.String(i.level))
	add("operation", protocol.String(i.operation))
	add("patient", sensitive(one(patients)))
	add("patients", sensitives(patients))
	if i.compartment != "" {
		add("compartment", protocol.Object(
			protocol.Field{Name: "type", Value: protocol.String(i.compartment)},
			protocol.Field{Name: "id", Value: sensitive(i.compartmentID)},
		))
	}
	add("params", names(s.params))
	add("modifiers", names(s.modifiers))
	add("includes", names(s.includes))
	add("chains", names(s.chains))
	add("result_params", names(s.results))
	add("unknown_params", names(s.unknown))
	add("preconditions", names(i.preconditions))
	add("conditional", protocol.Bool(strings.HasPrefix(i.code, "conditional-")))
	add("entry", protocol.Bool(i.entry))
	if searching {
		count := int64(-1)
		if s.counted {
			count = int64(s.count)
		}
		add("count", protocol.Int(count))
		add("alternatives", protocol.Int(int64(s.alternatives)))
	}
	if i.read {
		add("conditional_references", names(i.conditional()))
	}
	if i.about.typ != "" {
		own := distinct(i.about.patients)
		add("body", protocol.Object(
			protocol.Field{Name: "type", Value: protocol.String(i.about.typ)},
			protocol.Field{Name: "id", Value: sensitive(i.about.id)},
			protocol.Field{Name: "patient", Value: sensitive(one(own))},
		))
	}
	if i.expect == expectBundle && i.read {
		list := make([]protocol.Value, len(i.entries))
		for k, e := range i.entries {
			list[k] = protocol.Object(
				protocol.Field{Name: "interaction", Value: protocol.String(e.code)},
				protocol.Field{Name: "type", Value: protocol.String(e.typ)},
				protocol.Field{Name: "id", Value: sensitive(e.id)},
			)
		}
		add("entries", protocol.List(list...))
	}
	return protocol.Object(f...)
}

// patients returns the ids, or identifiers, of the patients that the interaction is about, so far
// as is known: from the path, the parameters and the body, and of a Bundle from
// its entries. An id of "" stands for one that could not be told.
func (i *Interaction) patients() []string {
	var ids []string
	if i.typ == "Patient" && i.id != "" {
		ids = append(ids, i.id)
	}
	if i.compartment == "Patient" {
		ids = append(ids, i.compartmentID)
	}
	ids = append(append(ids, i.search.patients...), i.about.patients...)
	for _, e := range i.entries {
		ids = append(ids, e.patients()...)
	}
	return distinct(ids)
}

// conditional returns the conditional references of the body.
func (i *Interaction) conditional() []string {
	refs := i.about.conditional
	for _, e := range i.entries {
		refs = append(refs, e.about.conditional...)
	}
	return refs
}

// one returns the only element there is, or "".
func one(ids []string) string {
	if len(ids) != 1 {
		return ""
	}
	return ids[0]
}

// distinct sorts and removes repetitions. The order in which a device names
// things tells nothing, and equal questions are answered from a cache.
func distinct(s []string) []string {
	if len(s) < 2 {
		return s
	}
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

func sensitive(s string) protocol.Value {
	if s == "" {
		return protocol.String("")
	}
	return protocol.Sensitive(s)
}

func sensitives(ids []string) protocol.Value {
	v := make([]protocol.Value, len(ids))
	for i, s := range ids {
		v[i] = sensitive(s)
	}
	return protocol.List(v...)
}

// names lists names of parameters and the like. A device writes them, so those
// that R4 does not know may be anything, a patient's name among them.
func names(s []string) protocol.Value {
	s = distinct(s)
	v := make([]protocol.Value, len(s))
	for i, n := range s {
		if harmless(n) {
			v[i] = protocol.String(n)
		} else {
			v[i] = protocol.Sensitive(n)
		}
	}
	return protocol.List(v...)
}

// harmless reports whether every word in a name is one of R4's.
func harmless(name string) bool {
	for word := range strings.FieldsFuncSeq(name, func(c rune) bool { return strings.ContainsRune(":.?&", c) }) {
		if !searchParams[word] && !isType(word) && !isModifier(word) && !ours[word] {
			return false
		}
	}
	return true
}

// ours are the words of names that are no search parameters.
var ours = map[string]bool{
	"*": true, "_has": true, "_list": true, "_type": true, "_include": true, "_revinclude": true,
	"_format": true, "_pretty": true, "_summary": true, "_elements": true, "_sort": true, "_count": true, "_total": true,
	"_contained": true, "_containedType": true, "_since": true, "_at": true, "mode": true,
	"if-match": true, "if-none-match": true, "if-modified-since": true, "if-none-exist": true,
}
