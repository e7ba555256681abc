package fhir

import (
	"net/http"
	"slices"
	"strings"
)

// about is what a resource says of itself and its patients.
type about struct {
	typ, id     string
	patients    []string // ids, or system|value; "" is one that could not be told
	conditional []string // conditional references, "Patient?identifier"
	asks        bool     // a reference has a query that is none of those
}

// What a reference is to.
type refKind uint8

const (
	refOther   refKind = iota // something that is no patient
	refPatient                // the patient with the id
	refUnclear                // possibly a patient
)

// reference reads the text of a literal reference
// (http://hl7.org/fhir/R4/references.html#literal).
func reference(s string) (id string, what refKind) {
	typ, rest, ok := strings.Cut(s, "/")
	if ok && isType(typ) {
		id, version, versioned := strings.Cut(rest, "/_history/")
		if !isID(id) || versioned && !isID(version) {
			return "", refUnclear
		}
		if typ == "Patient" {
			return id, refPatient
		}
		return "", refOther
	}
	// An absolute reference may be to this server under a name we do not know it
	// by, so one to a patient claims nothing.
	if strings.Contains(s, "://") {
		parts := strings.Split(s, "/")
		if n := len(parts); n >= 4 && parts[n-2] == "_history" {
			parts = parts[:n-2]
		}
		if n := len(parts); n >= 5 && isID(parts[n-1]) && isType(parts[n-2]) && parts[n-2] != "Patient" {
			return "", refOther
		}
	}
	return "", refUnclear
}

// resolver finds what an entry of the same Bundle is that has the full URL.
type resolver map[string]target

type target struct{ typ, id string }

// resourceAt reads what the resource at node root says.
func resourceAt(d *document, root int, res resolver) (about, *Refusal) {
	var a about
	if f := a.add(d, root, res); f != nil {
		return about{}, f
	}
	if f := a.conditions(d, root); f != nil {
		return about{}, f
	}
	return a, nil
}

// identity reads a resource's type and id.
func identity(d *document, root int) (typ, id string, f *Refusal) {
	if d.kind(root) != kindObject {
		return "", "", refuse(http.StatusBadRequest, "the body holds something else where a resource belongs")
	}
	typ = d.text(d.member(root, "resourceType"))
	if !isType(typ) {
		return "", "", refuse(http.StatusBadRequest, "the body holds a resource without a type that FHIR R4 has")
	}
	if n := d.member(root, "id"); n >= 0 {
		if id = d.text(n); !isID(id) {
			return "", "", refuse(http.StatusBadRequest, "the body holds a resource whose id is not one in FHIR")
		}
	}
	return typ, id, nil
}

// add reads the resource at root, and those it carries: entries of a Bundle,
// parameters of Parameters. The first one gives a its type and id.
func (a *about) add(d *document, root int, res resolver) *Refusal {
	typ, id, f := identity(d, root)
	if f != nil {
		return f
	}
	if a.typ == "" {
		a.typ, a.id = typ, id
	}
	switch typ {
	case "Patient":
		if id != "" {
			a.patients = append(a.patients, id)
		}
	case "Bundle":
		return a.each(d, d.member(root, "entry"), func(e int) *Refusal {
			if r := d.member(e, "resource"); r >= 0 {
				return a.add(d, r, res)
			}
			return nil
		})
	case "Parameters":
		return a.parameters(d, d.member(root, "parameter"), res)
	}
	for _, path := range resources[typ].paths {
		a.walk(d, root, root, path, res)
	}
	return nil
}

// each calls f with the elements of a list, if there is one.
func (a *about) each(d *document, list int, f func(int) *Refusal) *Refusal {
	if list < 0 {
		return nil
	}
	if d.kind(list) != kindArray {
		return refuse(http.StatusBadRequest, "the body holds something else where a list belongs")
	}
	for k := list + 1; k < int(d.nodes[list].next); k = int(d.nodes[k].next) {
		if e := f(k); e != nil {
			return e
		}
	}
	return nil
}

// parameters reads a list of parameters, and of their parts.
func (a *about) parameters(d *document, list int, res resolver) *Refusal {
	return a.each(d, list, func(p int) *Refusal {
		if r := d.member(p, "resource"); r >= 0 {
			if f := a.add(d, r, res); f != nil {
				return f
			}
		}
		if name := d.text(d.member(p, "name")); name == "patient" || name == "subject" {
			for _, v := range [...]string{"valueId", "valueString", "valueUri", "valueUrl", "valueCanonical", "valueCode"} {
				if s := d.text(d.member(p, v)); isID(s) {
					a.patients = append(a.patients, s)
				} else if s != "" {
					a.refer(d, p, s, res)
				}
			}
		}
		if r := d.member(p, "valueReference"); r >= 0 {
			a.referAt(d, p, r, res)
		}
		return a.parameters(d, d.member(p, "part"), res)
	})
}

// walk follows an element path to References.
func (a *about) walk(d *document, root, at int, path []string, res resolver) {
	switch d.kind(at) {
	case kindArray:
		d.kids(at, func(k int) { a.walk(d, root, k, path, res) })
	case kindObject:
		if len(path) == 0 {
			a.referAt(d, root, at, res)
		} else if m := d.member(at, path[0]); m >= 0 {
			a.walk(d, root, m, path[1:], res)
		}
	}
}

// referAt reads the Reference at a node of the resource at root. One may name a
// patient twice, by a reference and by an identifier; some servers go by the one
// and some by the other, so that both count.
func (a *about) referAt(d *document, root, at int, res resolver) {
	known := len(a.patients)
	literal := d.text(d.member(at, "reference"))
	if literal != "" {
		if a.refer(d, root, literal, res); len(a.patients) == known {
			return // it is something else
		}
	}
	id := d.member(at, "identifier")
	if id < 0 {
		return
	}
	// A reference by identifier is a search that some servers make.
	typ := d.text(d.member(at, "type"))
	switch {
	case typ == "Patient", literal != "":
		a.patients = append(a.patients, identifier(d.text(d.member(id, "system")), d.text(d.member(id, "value"))))
	case typ == "" || !isType(typ):
		a.patients = append(a.patients, "")
	}
}

func (a *about) refer(d *document, root int, s string, res resolver) {
	id, what := reference(s)
	if what == refUnclear {
		if t, ok := res[s]; ok && strings.HasPrefix(s, "urn:") {
			if t.typ != "Patient" {
				return
			}
			id = t.id // "" of one that is yet to be created
		} else if frag, ok := strings.CutPrefix(s, "#"); ok && containedOther(d, root, frag) {
			return
		}
	}
	if what != refOther {
		a.patients = append(a.patients, id)
	}
}

// containedOther reports whether the resource at root contains one with the id,
// or is it, and that it is no patient.
func containedOther(d *document, root int, id string) bool {
	if id == "" {
		return d.text(d.member(root, "resourceType")) != "Patient"
	}
	list := d.member(root, "contained")
	if d.kind(list) != kindArray {
		return false
	}
	other := false
	d.kids(list, func(k int) {
		if d.text(d.member(k, "id")) == id {
			typ := d.text(d.member(k, "resourceType"))
			other = isType(typ) && typ != "Patient"
		}
	})
	return other
}

// conditions finds the conditional references below a node: each is a search
// that the server makes for the device.
func (a *about) conditions(d *document, root int) *Refusal {
	for k := root; k < int(d.nodes[root].next); k++ {
		n := &d.nodes[k]
		if n.kind != kindString || string(d.data[n.name:n.nameEnd]) != "reference" {
			continue
		}
		if f := a.condition(d.text(k)); f != nil {
			return f
		}
	}
	return nil
}

// condition takes the text of a reference, which may be a conditional one.
func (a *about) condition(s string) *Refusal {
	path, _, asks := strings.Cut(s, "?")
	if !asks {
		return nil
	}
	typ, query, ok := searches(s)
	switch {
	case ok:
	case strings.Contains(path, ":"):
		a.asks = true
		return nil
	default:
		return refuse(http.StatusBadRequest, "the body holds a conditional reference of a form not known")
	}
	ps, f := parseForm(query, 32)
	if f != nil {
		return f
	}
	i := Interaction{typ: typ, code: codeConditionalUpdate, lim: Limits{Params: 32}}
	if f := i.query(ps); f != nil {
		return f
	}
	slices.Sort(i.search.params)
	a.conditional = append(a.conditional, typ+"?"+strings.Join(slices.Compact(i.search.params), "&"))
	return nil
}

// searches reports whether a text, as a reference, has a server search for what it
// means, of which type and how. HAPI takes no notice of what comes before the type, be it
// the address of another server.
func searches(s string) (typ, query string, ok bool) {
	path, query, ok := strings.Cut(s, "?")
	if typ = path; strings.Contains(path, ":") {
		typ = path[strings.LastIndexAny(path, "/:")+1:]
	}
	return typ, query, ok && isType(typ)
}
