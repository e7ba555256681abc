package fhir

import (
	"net/http"
	"strings"
)

// Parse recognises the interaction that a request asks for. It returns a
// [*Refusal] for anything else: 404 for a type or a shape of path that R4 does
// not have, 405 for a method it does not have there, 400 for what is malformed
// or ambiguous.
func Parse(r *Request, lim Limits) (*Interaction, error) {
	i := &Interaction{lim: lim.filled()}
	if f := i.parse(r); f != nil {
		return nil, f
	}
	return i, nil
}

func (i *Interaction) parse(r *Request) *Refusal {
	if f := i.route(r.Method, r.Path); f != nil {
		return f
	}
	if f := i.headers(r); f != nil {
		return f
	}
	return i.query(r.Query)
}

// route recognises the shape of the path, and the method.
func (i *Interaction) route(method string, p []string) *Refusal {
	if len(p) == 1 && p[0] == "" {
		p = nil
	}
	get := method == http.MethodGet || method == http.MethodHead
	post := method == http.MethodPost
	if !get && !post && method != http.MethodPut && method != http.MethodPatch && method != http.MethodDelete {
		return refuse(http.StatusMethodNotAllowed, "FHIR does not have this method")
	}
	i.level = levelSystem
	if len(p) == 0 {
		switch {
		case get:
			i.code = codeSearchSystem
			return nil
		case post:
			i.code, i.expect = codeBatch, expectBundle
			return nil
		}
		return wrongMethod()
	}
	if len(p) == 1 {
		switch p[0] {
		case "metadata":
			return i.only(get, codeCapabilities)
		case "_history":
			return i.only(get, codeHistorySystem)
		case "_search":
			i.expect = expectForm
			return i.only(post, codeSearchSystem)
		}
		if isOperation(p[0]) {
			return i.operate(p[0], get, post)
		}
	}
	if !isType(p[0]) {
		return refuse(http.StatusNotFound, "the path begins with nothing that FHIR R4 has")
	}
	i.typ, i.level = p[0], levelType
	if len(p) == 1 {
		switch method {
		case http.MethodPost:
			i.code, i.expect = codeCreate, expectResource
		case http.MethodPut:
			i.code, i.expect = codeConditionalUpdate, expectResource
		case http.MethodPatch:
			i.code, i.expect = codeConditionalPatch, expectPatch
		case http.MethodDelete:
			i.code = codeConditionalDelete
		default:
			i.code = codeSearchType
		}
		return nil
	}
	if len(p) == 2 {
		switch {
		case p[1] == "_history":
			return i.only(get, codeHistoryType)
		case p[1] == "_search":
			i.expect = expectForm
			return i.only(post, codeSearchType)
		case isOperation(p[1]):
			return i.operate(p[1], get, post)
		}
	}
	if !isID(p[1]) {
		return refuse(http.StatusNotFound, "the path holds an id that is not one in FHIR")
	}
	i.id, i.level = p[1], levelInstance
	switch len(p) {
	case 2:
		switch method {
		case http.MethodPost:
			return wrongMethod()
		case http.MethodPut:
			i.code, i.expect = codeUpdate, expectResource
		case http.MethodPatch:
			i.code, i.expect = codePatch, expectPatch
		case http.MethodDelete:
			i.code = codeDelete
		default:
			i.code = codeRead
		}
		return nil
	case 3:
		switch {
		case p[2] == "_history":
			return i.only(get, codeHistoryInstance)
		case isOperation(p[2]):
			return i.operate(p[2], get, post)
		}
	case 4, 5:
		if p[2] != "_history" {
			break
		}
		if !isID(p[3]) {
			return refuse(http.StatusNotFound, "the path holds a version that is not one in FHIR")
		}
		i.version = p[3]
		if len(p) == 4 {
			return i.only(get, codeVRead)
		}
		if isOperation(p[4]) {
			return i.operate(p[4], get, post)
		}
	}
	return i.inCompartment(p, get, post)
}

// inCompartment recognises a search in a compartment: below a resource come a
// type or *, and _search where it is by POST.
func (i *Interaction) inCompartment(p []string, get, post bool) *Refusal {
	rest := p[2:]
	form := rest[len(rest)-1] == "_search"
	if form {
		rest = rest[:len(rest)-1]
	}
	unknown := !isCompartment(p[0]) || len(rest) > 1 || len(rest) == 0 && !form
	if !unknown && len(rest) == 1 && rest[0] != "*" {
		unknown = !isType(rest[0])
	}
	if unknown {
		return refuse(http.StatusNotFound, "the path is of no shape that FHIR R4 has")
	}
	i.compartment, i.compartmentID = i.typ, i.id
	i.typ, i.id = "", ""
	if len(rest) == 1 && rest[0] != "*" {
		i.typ = rest[0]
	}
	if form {
		i.expect = expectForm
		return i.only(post, codeSearchCompartment)
	}
	return i.only(get, codeSearchCompartment)
}

func (i *Interaction) only(ok bool, code string) *Refusal {
	if !ok {
		return wrongMethod()
	}
	i.code = code
	return nil
}

func (i *Interaction) operate(name string, get, post bool) *Refusal {
	i.operation = name
	if post {
		i.expect = expectOperation
	}
	return i.only(get || post, codeOperation)
}

func wrongMethod() *Refusal {
	return refuse(http.StatusMethodNotAllowed, "FHIR R4 does not have this method at this path")
}

// isID reports whether s is an id (http://hl7.org/fhir/R4/datatypes.html#id).
func isID(s string) bool {
	if s == "" || len(s) > 64 || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// isOperation reports whether s is $ and the name of an operation.
func isOperation(s string) bool {
	if len(s) < 2 || len(s) > 65 || s[0] != '$' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// headers recognises the fields that make an interaction conditional.
func (i *Interaction) headers(r *Request) *Refusal {
	if r.Header == nil {
		return nil
	}
	for _, name := range [...]string{"If-Match", "If-None-Match", "If-Modified-Since", "If-None-Exist"} {
		vs := r.Header(name)
		if len(vs) == 0 {
			continue
		}
		if len(vs) > 1 {
			return refuse(http.StatusBadRequest, "the request repeats a condition")
		}
		if f := i.precondition(name, strings.Trim(vs[0], " \t")); f != nil {
			return f
		}
	}
	return nil
}

// precondition takes one of the conditional header fields, which the entries of
// a Bundle have as elements.
func (i *Interaction) precondition(name, v string) *Refusal {
	switch name {
	case "If-None-Exist":
		if i.code != codeCreate {
			return refuse(http.StatusBadRequest, "the request has If-None-Exist and is no create")
		}
		ps, f := parseForm(v, i.lim.Params)
		if f != nil {
			return f
		}
		if len(ps) == 0 {
			return refuse(http.StatusBadRequest, "the If-None-Exist field holds no search")
		}
		i.code = codeConditionalCreate
		if f := i.criteria(ps); f != nil {
			return f
		}
	case "If-Match":
		v, ok := version(v)
		if !ok {
			return refuse(http.StatusBadRequest, "the If-Match field is not the version of a resource")
		}
		if i.version == "" {
			i.version = v
		}
	case "If-None-Match":
		for tag := range strings.SplitSeq(v, ",") {
			tag = strings.Trim(tag, " \t")
			if _, ok := version(tag); !ok && tag != "*" {
				return refuse(http.StatusBadRequest, "the If-None-Match field is not a list of versions")
			}
		}
	case "If-Modified-Since":
		// An HTTP date in a header, an instant in a Bundle. It narrows a read and
		// nothing else, so its form is the backend's to check.
		for j := range len(v) {
			if v[j] < ' ' || v[j] > '~' {
				return refuse(http.StatusBadRequest, "the If-Modified-Since field is not a date")
			}
		}
	}
	i.preconditions = append(i.preconditions, strings.ToLower(name))
	return nil
}

// version reads an entity tag that holds a version id: W/"3". Some clients leave
// the W/ out.
func version(tag string) (string, bool) {
	tag = strings.TrimPrefix(tag, "W/")
	if len(tag) < 2 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		return "", false
	}
	tag = tag[1 : len(tag)-1]
	return tag, isID(tag)
}
