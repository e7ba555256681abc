package fhir

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// A search is what the parameters of a request say, those of the query and those
// of the form together. Values are not kept, but for the patients they name.
type search struct {
	params    []string // names, without modifiers
	modifiers []string // "name:exact"
	includes  []string // "MedicationRequest:medication", "_revinclude:Provenance:target"
	chains    []string // "subject:Patient.name", "_has:Observation:patient:code"
	results   []string // parameters that shape the answer
	unknown   []string // with a leading underscore, and not R4's
	patients  []string // ids; "" is one that could not be told
	format    string
	narrowed  bool // there is a parameter that is not of results

	count        int // of results asked for at a time, if counted
	counted      bool
	alternatives int // the most values that one parameter takes
}

// maxCount bounds the number of results a search can ask for; it keeps what is
// compared with it a small number.
const maxCount = 1_000_000

// maxParamName bounds a parameter's name, in bytes; chains may be long.
const maxParamName = 256

// query takes the parameters of the query or the form.
func (i *Interaction) query(ps []Param) *Refusal {
	if len(ps) > i.lim.Params {
		return tooManyParams()
	}
	var f *Refusal
	switch i.code {
	case codeSearchType, codeSearchSystem, codeSearchCompartment:
		f = i.criteria(ps)
	case codeConditionalUpdate, codeConditionalPatch, codeConditionalDelete:
		if f = i.criteria(ps); f == nil && !i.search.narrowed {
			f = refuse(http.StatusBadRequest, "the request names neither a resource nor a search for one")
		}
	case codeOperation:
		f = i.arguments(ps)
	case codeHistoryInstance, codeHistoryType, codeHistorySystem:
		f = i.shapes(ps, "_count", "_since", "_at", "_list")
	case codeCapabilities:
		f = i.shapes(ps, "mode")
	default:
		f = i.shapes(ps)
	}
	return f
}

// general reports whether a parameter may be on any request
// (http://hl7.org/fhir/R4/http.html#parameters).
func general(name string) bool {
	return name == "_format" || name == "_pretty" || name == "_summary" || name == "_elements"
}

// shapes takes parameters of interactions that are no searches: those that shape
// the answer, and the extra ones. Any other is refused, because a server might
// make a search of it.
func (i *Interaction) shapes(ps []Param, extra ...string) *Refusal {
	for _, p := range ps {
		if !general(p.Name) && !slices.Contains(extra, p.Name) {
			return refuse(http.StatusBadRequest, "the request has a parameter that its interaction does not")
		}
		if f := i.result(p); f != nil {
			return f
		}
	}
	return nil
}

func (i *Interaction) result(p Param) *Refusal {
	if p.Name == "_format" {
		if i.search.format != "" && i.search.format != p.Value {
			return refuse(http.StatusBadRequest, "the request asks for two formats")
		}
		i.search.format = p.Value
	}
	if p.Name == "_count" {
		n, err := strconv.ParseUint(p.Value, 10, 32)
		if err != nil || n > maxCount || i.search.counted {
			return refuse(http.StatusBadRequest, "the request does not say clearly how many results it wants")
		}
		i.search.count, i.search.counted = int(n), true
	}
	i.search.results = append(i.search.results, p.Name)
	return nil
}

// Format returns the value of the _format parameter, for [Outcome].
func (i *Interaction) Format() string { return i.search.format }

// arguments takes the parameters of an operation.
func (i *Interaction) arguments(ps []Param) *Refusal {
	s := &i.search
	for _, p := range ps {
		if f := checkParam(p); f != nil {
			return f
		}
		if general(p.Name) {
			if f := i.result(p); f != nil {
				return f
			}
			continue
		}
		name, modifier, f := splitName(p.Name)
		if f != nil {
			return f
		}
		s.params = append(s.params, name)
		if modifier != "" {
			s.modifiers = append(s.modifiers, p.Name)
		}
		if (name == "patient" || name == "subject") && (modifier == "" || modifier == "Patient") {
			s.claim(p.Value, true)
		}
	}
	return nil
}

func checkParam(p Param) *Refusal {
	switch {
	case p.Value == "":
		// Servers ignore it, and the search is wider than it looks.
		return refuse(http.StatusBadRequest, "a parameter has no value")
	case p.Name == "_method":
		return refuse(http.StatusBadRequest, "the request asks for another method than its own")
	case len(p.Name) > maxParamName:
		return refuse(http.StatusBadRequest, "a parameter's name is too long")
	}
	return nil
}

// criteria takes the parameters of a search.
func (i *Interaction) criteria(ps []Param) *Refusal {
	s := &i.search
	searching := i.code == codeSearchType || i.code == codeSearchSystem || i.code == codeSearchCompartment
	for _, p := range ps {
		if f := checkParam(p); f != nil {
			return f
		}
		if strings.HasPrefix(p.Name, "_has:") {
			if !isReverseChain(p.Name) {
				return refuse(http.StatusBadRequest, "a reverse chain is malformed")
			}
			s.params = append(s.params, "_has")
			s.chains = append(s.chains, p.Name)
			s.alternatives = max(s.alternatives, countValues(p.Value))
			s.narrowed = true
			continue
		}
		name, modifier, f := splitName(p.Name)
		if f != nil {
			return f
		}
		switch name {
		case "_format", "_pretty", "_summary", "_elements", "_sort", "_count", "_total", "_contained", "_containedType":
			if modifier != "" || !searching && !general(name) {
				return refuse(http.StatusBadRequest, "a parameter that shapes the answer is used in another way")
			}
			if f := i.result(p); f != nil {
				return f
			}
			continue
		case "_include", "_revinclude":
			if !searching {
				return refuse(http.StatusBadRequest, "a condition includes other resources")
			}
			if f := s.include(name, modifier, p.Value); f != nil {
				return f
			}
			continue
		}
		s.narrowed = true
		s.params = append(s.params, name)
		s.alternatives = max(s.alternatives, countValues(p.Value))
		if modifier != "" {
			s.modifiers = append(s.modifiers, p.Name)
		}
		if name[0] == '_' && !searchParams[name] && name != "_list" && name != "_type" {
			s.unknown = append(s.unknown, name)
		}
		if chain := strings.TrimSuffix(p.Name, ":"+modifier); strings.IndexByte(chain, '.') >= 0 {
			s.chains = append(s.chains, chain)
			continue
		}
		pp, ok := patientParamOf(i.typ, name)
		if modifier == "identifier" && ok && pp.only || modifier == "" && i.typ == "Patient" && name == "identifier" {
			s.claimIdentifiers(p.Value)
			continue
		}
		if modifier != "" && modifier != "Patient" {
			continue
		}
		if i.typ == "Patient" && name == "_id" {
			s.claim(p.Value, true)
		} else if ok {
			s.claim(p.Value, pp.only || modifier == "Patient")
		}
	}
	return nil
}

// splitName splits a parameter's name into the parameter and its modifier, the
// one at the end of a chain. It refuses names that are none.
func splitName(full string) (name, modifier string, f *Refusal) {
	malformed := refuse(http.StatusBadRequest, "a parameter's name is malformed")
	rest := full
	for first := true; ; first = false {
		seg, more, chained := strings.Cut(rest, ".")
		seg, suffix, suffixed := strings.Cut(seg, ":")
		if !isParamToken(seg) || seg == "_has" {
			return "", "", malformed
		}
		if first {
			name = seg
		}
		switch {
		case !chained:
			if suffixed && !isModifier(suffix) {
				return "", "", refuse(http.StatusBadRequest, "a parameter has a modifier that FHIR R4 does not have")
			}
			return name, suffix, nil
		case suffixed && !isType(suffix):
			return "", "", malformed
		}
		rest = more
	}
}

func isParamToken(s string) bool {
	if s == "" || len(s) > 64 || !isAlnum(s[0]) && s[0] != '_' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// isModifier reports whether a search parameter may have the modifier
// (http://hl7.org/fhir/R4/search.html#modifiers). Servers must refuse others.
func isModifier(s string) bool {
	switch s {
	case "missing", "exact", "contains", "text", "not", "above", "below", "in", "not-in", "of-type", "ofType", "identifier",
		"iterate", "recurse":
		return true
	}
	return isType(s)
}

// isReverseChain reports whether name is _has:Type:reference:parameter, where the
// parameter may be a reverse chain again, or a chain.
func isReverseChain(name string) bool {
	rest := name
	for {
		var ok bool
		if rest, ok = strings.CutPrefix(rest, "_has:"); !ok {
			_, _, f := splitName(rest)
			return f == nil
		}
		typ, more, ok1 := strings.Cut(rest, ":")
		ref, more, ok2 := strings.Cut(more, ":")
		if !ok1 || !ok2 || !isType(typ) || !isParamToken(ref) {
			return false
		}
		rest = more
	}
}

// include takes an _include or _revinclude. What it names goes by Type:parameter
// or Type:parameter:Target; a reverse one is marked, because it brings other
// resources than a forward one with the same text.
func (s *search) include(name, modifier, value string) *Refusal {
	if modifier == "iterate" || modifier == "recurse" {
		s.modifiers = append(s.modifiers, name+":"+modifier)
	} else if modifier != "" {
		return refuse(http.StatusBadRequest, "an include has a modifier that FHIR R4 does not have")
	}
	typ, param, _ := strings.Cut(value, ":")
	param, target, targeted := strings.Cut(param, ":")
	ok := value == "*" || isType(typ) && (param == "*" || isParamToken(param)) && (!targeted || isType(target))
	if !ok {
		return refuse(http.StatusBadRequest, "an include is malformed")
	}
	if name == "_revinclude" {
		value = "_revinclude:" + value
	}
	s.includes = append(s.includes, value)
	return nil
}

// claim takes the value of a parameter that can name patients. bare says that an
// id without a type means one.
func (s *search) claim(value string, bare bool) {
	for value != "" {
		var v string
		v, value = cutComma(value)
		switch id, what := reference(v); {
		case what == refPatient:
			s.patients = append(s.patients, id)
		case bare && isID(v):
			s.patients = append(s.patients, v)
		case what == refUnclear && bare:
			s.patients = append(s.patients, "")
		case what == refUnclear && strings.Contains(v, "Patient"):
			s.patients = append(s.patients, "")
		}
	}
}

// claimIdentifiers takes the value of a parameter that names patients by
// identifiers.
func (s *search) claimIdentifiers(value string) {
	for value != "" {
		var v string
		v, value = cutComma(value)
		system, id, _ := strings.Cut(v, "|")
		s.patients = append(s.patients, identifier(system, id))
	}
}

// identifier returns the patient that an identifier names, as it is compared
// with others: no id holds a "|". It is "" if the identifier can be read in more
// than one way.
func identifier(system, value string) string {
	const meanSomething = "|,\\$ "
	if system == "" || value == "" || strings.ContainsAny(value, meanSomething) || strings.ContainsAny(system, meanSomething) {
		return ""
	}
	return system + "|" + value
}

// countValues counts the values that a parameter takes.
func countValues(s string) (n int) {
	for s != "" {
		_, s = cutComma(s)
		n++
	}
	return n
}

// cutComma cuts the first of the values that a comma separates; an escaped one
// does not.
func cutComma(s string) (first, rest string) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ',':
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
