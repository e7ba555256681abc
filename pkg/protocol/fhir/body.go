package fhir

import (
	"net/http"
	"strings"
)

// ReadBody reads the interaction's body: the whole of it, without any transfer or
// content coding, as it was sent with the Content-Type given. It returns a
// [*Refusal] for what is not understood: 415 for another type of content, 413 for
// what is beyond the limits, 400 for the rest. It keeps body, which must not
// change, and is called at most once.
func (i *Interaction) ReadBody(contentType string, body []byte) error {
	if f := i.readBody(contentType, body); f != nil {
		return f
	}
	i.read = true
	return nil
}

func (i *Interaction) readBody(contentType string, body []byte) *Refusal {
	if len(body) == 0 && (i.expect == expectNothing || i.expect == expectOperation) {
		return nil
	}
	media, ok := mediaType(contentType)
	json := media == "application/fhir+json" || media == "application/json"
	switch i.expect {
	case expectNothing:
		return refuse(http.StatusBadRequest, "the request has a body, which its interaction does not")
	case expectForm:
		ok = ok && media == "application/x-www-form-urlencoded"
	case expectPatch:
		ok = ok && (media == "application/json-patch+json" || media == "application/fhir+json")
	default:
		ok = ok && json
	}
	if !ok {
		return refuse(http.StatusUnsupportedMediaType, "the body is not of a type that can be read")
	}
	if i.expect == expectForm {
		return i.readForm(string(body))
	}
	d, f := readJSON(body, &i.lim)
	if f != nil {
		return f
	}
	i.body = d
	switch {
	case i.expect == expectBundle:
		return i.readBundle()
	case media == "application/json-patch+json":
		i.about, f = patchOf(&i.body, i.typ)
		return f
	case i.expect == expectOperation && media == "application/json" && d.member(0, "resourceType") < 0:
		// Some operations take JSON that is no resource, such as $graphql.
		if d.kind(0) != kindObject {
			return refuse(http.StatusBadRequest, "the body is not a JSON object")
		}
		return nil
	}
	a, f := resourceAt(&i.body, 0, nil)
	if f != nil {
		return f
	}
	return i.take(a)
}

// take checks the resource that came with the interaction against it.
func (i *Interaction) take(a about) *Refusal {
	switch {
	case i.expect == expectResource && a.typ != i.typ:
		return refuse(http.StatusBadRequest, "the body's type of resource is not the one in the URL")
	case i.code == codeUpdate && a.id != "" && a.id != i.id:
		return refuse(http.StatusBadRequest, "the body's id is not the one in the URL")
	case i.expect == expectPatch && a.typ != "Parameters" && (a.typ != "Binary" || !i.entry):
		return refuse(http.StatusBadRequest, "the body is no patch")
	}
	if i.expect == expectPatch {
		// What a patch writes where can not be told from here.
		a.patients = append(a.patients, "")
	}
	i.about = a
	return nil
}

func (i *Interaction) readForm(body string) *Refusal {
	for j := range len(body) {
		if c := body[j]; c <= ' ' || c >= 0x7f {
			return refuse(http.StatusBadRequest, "the form holds a character that must be percent-encoded")
		}
	}
	ps, f := parseForm(body, i.lim.Params)
	if f != nil {
		return f
	}
	n := len(i.search.params) + len(i.search.results) + len(i.search.includes)
	if n+len(ps) > i.lim.Params {
		return tooManyParams()
	}
	i.form = ps
	return i.query(ps)
}

// mediaType reads a Content-Type, in lower case. It does not accept parameters
// that would have the body read in another way.
func mediaType(v string) (media string, ok bool) {
	media, params, more := strings.Cut(v, ";")
	media = strings.ToLower(strings.Trim(media, " \t"))
	seen := ""
	for more {
		var p string
		p, params, more = strings.Cut(params, ";")
		name, value, _ := strings.Cut(strings.Trim(p, " \t"), "=")
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		name = strings.ToLower(name)
		switch {
		case name == seen:
			return media, false
		case name == "charset" && strings.EqualFold(value, "utf-8"):
		case name == "fhirversion" && (value == "4.0" || value == "4.0.1"):
		default:
			return media, false
		}
		seen = name
	}
	return media, true
}

// patchOf reads a JSON Patch (RFC 6902) of a resource of the type.
func patchOf(d *document, typ string) (about, *Refusal) {
	malformed := refuse(http.StatusBadRequest, "the body is no JSON Patch")
	var a about
	if d.kind(0) != kindArray {
		return a, malformed
	}
	f := a.each(d, 0, func(op int) *Refusal {
		if d.kind(op) != kindObject {
			return malformed
		}
		path := d.member(op, "path")
		if d.kind(path) != kindString || !isPointer(d.text(path)) {
			return malformed
		}
		verb := d.text(d.member(op, "op"))
		switch verb {
		case "add", "replace", "test":
			if d.member(op, "value") < 0 {
				return malformed
			}
		case "move", "copy":
			if from := d.member(op, "from"); d.kind(from) != kindString || !isPointer(d.text(from)) {
				return malformed
			}
		case "remove":
		default:
			return malformed
		}
		known := len(a.patients)
		if v := d.member(op, "value"); v >= 0 {
			for k := v; k < int(d.nodes[v].next); k++ {
				if d.kind(k) != kindString {
					continue
				}
				s := d.text(k)
				if id, what := reference(s); what == refPatient {
					a.patients = append(a.patients, id)
				}
				if _, _, ok := searches(s); ok {
					if f := a.condition(s); f != nil {
						return f
					}
				}
			}
		}
		if verb != "test" && len(a.patients) == known && touchesPatient(typ, d.text(path)) {
			a.patients = append(a.patients, "")
		}
		return nil
	})
	return a, f
}

// isPointer reports whether s is a JSON Pointer (RFC 6901).
func isPointer(s string) bool {
	if s != "" && s[0] != '/' {
		return false
	}
	for i := range len(s) {
		if s[i] == '~' && (i+1 >= len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return false
		}
	}
	return true
}

// touchesPatient reports whether writing at a pointer may change which patient a
// resource of the type names.
func touchesPatient(typ, pointer string) bool {
	if pointer == "" {
		return true
	}
	first, _, _ := strings.Cut(pointer[1:], "/")
	if typ == "Patient" && first == "id" {
		return true
	}
	for _, p := range resources[typ].paths {
		if p[0] == first {
			return true
		}
	}
	return false
}

// AppendBody appends the body that was read to dst, in the one form it was
// understood in, which is what a backend is to be sent.
func (i *Interaction) AppendBody(dst []byte) []byte {
	switch {
	case i.expect == expectForm:
		return appendForm(dst, i.form)
	case len(i.body.nodes) > 0:
		return i.body.appendNode(dst, 0)
	}
	return dst
}
