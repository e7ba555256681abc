package fhir

import (
	"net/http"
	"strings"
)

// readBundle reads a batch or transaction
// (http://hl7.org/fhir/R4/http.html#transaction).
func (i *Interaction) readBundle() *Refusal {
	d := &i.body
	if d.text(d.member(0, "resourceType")) != "Bundle" {
		return refuse(http.StatusBadRequest, "the body is no Bundle")
	}
	if _, _, f := identity(d, 0); f != nil {
		return f
	}
	switch d.text(d.member(0, "type")) {
	case codeBatch:
	case codeTransaction:
		i.code = codeTransaction
	default:
		return refuse(http.StatusBadRequest, "the Bundle is neither a batch nor a transaction")
	}
	list := d.member(0, "entry")
	if list < 0 {
		return nil
	}
	if d.kind(list) != kindArray {
		return refuse(http.StatusBadRequest, "the Bundle's entry is not a list")
	}
	var nodes []int
	d.kids(list, func(e int) { nodes = append(nodes, e) })
	if len(nodes) > i.lim.Entries {
		return refuse(http.StatusRequestEntityTooLarge, "the Bundle has too many entries")
	}
	res, f := fullURLs(d, nodes)
	if f != nil {
		return f
	}
	i.entries = make([]*Interaction, len(nodes))
	for k, e := range nodes {
		if i.entries[k], f = readEntry(d, e, res, i.lim); f != nil {
			return f
		}
	}
	return nil
}

// fullURLs lists what the entries are by which others refer to them.
func fullURLs(d *document, entries []int) (resolver, *Refusal) {
	res := resolver{}
	for _, e := range entries {
		if d.kind(e) != kindObject {
			return nil, refuse(http.StatusBadRequest, "an entry of the Bundle is not an object")
		}
		n := d.member(e, "fullUrl")
		if n < 0 {
			continue
		}
		u := d.text(n)
		if _, twice := res[u]; twice || u == "" {
			return nil, refuse(http.StatusBadRequest, "the Bundle's full URLs are not unique")
		}
		var t target
		if r := d.member(e, "resource"); r >= 0 {
			var f *Refusal
			if t.typ, t.id, f = identity(d, r); f != nil {
				return nil, f
			}
		}
		if d.text(d.member(d.member(e, "request"), "method")) != http.MethodPut {
			t.id = "" // the server will choose it
		}
		res[u] = t
	}
	return res, nil
}

// readEntry recognises the interaction that an entry asks for.
func readEntry(d *document, e int, res resolver, lim Limits) (*Interaction, *Refusal) {
	req := d.member(e, "request")
	if d.kind(req) != kindObject {
		return nil, refuse(http.StatusBadRequest, "an entry of the Bundle has no request")
	}
	method, url := d.member(req, "method"), d.member(req, "url")
	if d.kind(method) != kindString || d.kind(url) != kindString {
		return nil, refuse(http.StatusBadRequest, "an entry of the Bundle has no method or no URL")
	}
	path, query, f := entryURL(d.text(url), lim.Params)
	if f != nil {
		return nil, f
	}
	i := &Interaction{entry: true, read: true, lim: lim}
	if f := i.parse(&Request{Method: d.text(method), Path: path, Query: query}); f != nil {
		return nil, f
	}
	d.replace(url, entryText(path, query))
	for _, c := range [...]struct{ name, header string }{
		{"ifMatch", "If-Match"}, {"ifNoneMatch", "If-None-Match"}, {"ifModifiedSince", "If-Modified-Since"}, {"ifNoneExist", "If-None-Exist"},
	} {
		n := d.member(req, c.name)
		if n < 0 {
			continue
		}
		if d.kind(n) != kindString {
			return nil, refuse(http.StatusBadRequest, "a condition of an entry is not a text")
		}
		v := d.text(n)
		if f := i.precondition(c.header, v); f != nil {
			return nil, f
		}
		if c.name == "ifNoneExist" {
			ps, _ := parseForm(v, lim.Params)
			d.replace(n, string(appendForm(nil, ps)))
		}
	}
	return i, i.entryResource(d, d.member(e, "resource"), res)
}

// entryResource takes the resource of an entry, which is its request's body.
func (i *Interaction) entryResource(d *document, r int, res resolver) *Refusal {
	switch i.expect {
	case expectForm, expectBundle:
		return refuse(http.StatusBadRequest, "an entry of the Bundle asks for what only a request can")
	case expectNothing:
		if r >= 0 {
			return refuse(http.StatusBadRequest, "an entry of the Bundle has a resource, which its interaction does not")
		}
		return nil
	}
	if r < 0 {
		if i.expect == expectOperation {
			return nil
		}
		return refuse(http.StatusBadRequest, "an entry of the Bundle lacks its resource")
	}
	if d.text(d.member(r, "resourceType")) == "Bundle" {
		switch d.text(d.member(r, "type")) {
		case codeBatch, codeTransaction:
			return refuse(http.StatusBadRequest, "an entry of the Bundle is a batch or transaction itself")
		}
	}
	a, f := resourceAt(d, r, res)
	if f != nil {
		return f
	}
	return i.take(a)
}

// maxEntryURL bounds an entry's URL, in bytes.
const maxEntryURL = 8 << 10

// entryURL reads an entry's URL. It is relative to the FHIR base and has nothing
// in its path that would need an escape, so that nobody can read it in another
// way: no scheme, no authority, no leading slash, no dot segments.
func entryURL(s string, most int) (path []string, query []Param, f *Refusal) {
	p, q, _ := strings.Cut(s, "?")
	if s == "" || len(s) > maxEntryURL {
		return nil, nil, refuse(http.StatusBadRequest, "an entry's URL is empty or too long")
	}
	for i := range len(p) {
		if c := p[i]; !isAlnum(c) && strings.IndexByte("-._$*/", c) < 0 {
			return nil, nil, refuse(http.StatusBadRequest, "an entry's URL is not relative to the base")
		}
	}
	for i := range len(q) {
		if c := q[i]; c <= ' ' || c >= 0x7f || c == '#' || c == '\\' {
			return nil, nil, refuse(http.StatusBadRequest, "an entry's URL holds a character that must be percent-encoded")
		}
	}
	if p != "" {
		path = strings.Split(p, "/")
		for _, seg := range path {
			if seg == "" || seg == "." || seg == ".." {
				return nil, nil, refuse(http.StatusBadRequest, "an entry's URL has an empty or dot segment")
			}
		}
	}
	query, f = parseForm(q, most)
	return path, query, f
}

// entryText is the one serialisation of an entry's URL.
func entryText(path []string, query []Param) string {
	b := []byte(strings.Join(path, "/"))
	if len(query) > 0 {
		b = appendForm(append(b, '?'), query)
	}
	return string(b)
}
