package fhir

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Redaction takes parts out of the resources of an answer.
type Redaction struct {
	// All is taken from every resource in the answer.
	All []protocol.Pointer
	// Entries is taken, for each entry of the batch or transaction that was asked
	// for, from every resource in the answer to it. Nil if none was asked for.
	Entries [][]protocol.Pointer
}

// redactNodes bounds the values of an answer that is redacted, to some 15 MB of
// them.
const redactNodes = 1 << 19

var (
	errMedia    = errors.New("the answer is not JSON")
	errResource = errors.New("the answer is no resource")
	errEntries  = errors.New("the answer does not answer each entry")
)

// Redact returns an answer of the content type given without what r points at, and
// how many things were taken out. Everything else is as it was, as values of JSON.
//
// A pointer begins at a resource: the one that is the answer, each in a Bundle's
// entries, each contained in another and each in Parameters. A name that meets a
// list goes on through all of its elements, because most elements of FHIR may
// repeat, and a pointer that missed them would miss in silence; a number is an
// element's index; "*" is every element or every member; "value[x]" is a choice
// of types, such as valueQuantity. With an element goes its companion with an
// underscore, which holds its extensions. What is empty for it then goes too,
// for FHIR has nothing that is empty.
//
// Narratives (text with a div) are taken out in any case: they say in words what
// the elements say.
//
// The error says why it can not be done, without a byte of the answer. Nothing of
// the answer may then be shown.
func Redact(contentType string, answer []byte, r Redaction) ([]byte, int, error) {
	media, ok := mediaType(contentType)
	if !ok || media != "application/fhir+json" && media != "application/json" {
		return nil, 0, errMedia
	}
	d, f := readJSON(answer, &Limits{Depth: answerDepth, Nodes: redactNodes})
	if f != nil {
		return nil, 0, fmt.Errorf("the answer can not be read: %w", f)
	}
	typ := d.text(d.member(0, "resourceType"))
	if typ == "" {
		return nil, 0, errResource
	}
	x := redactor{d: &d, marks: make([]mark, len(d.nodes))}
	switch entries := x.answers(); {
	case r.Entries == nil:
		x.visit(0, r.All)
	case typ == "Bundle" && len(entries) == len(r.Entries):
		x.resource(0, r.All)
		at := 0
		d.kids(0, func(k int) {
			if n := &d.nodes[k]; string(d.data[n.name:n.nameEnd]) != "entry" {
				x.visit(k, r.All)
				return
			}
			d.kids(k, func(e int) {
				x.visit(e, append(r.All[:len(r.All):len(r.All)], r.Entries[at]...))
				at++
			})
		})
	case typ == "OperationOutcome":
		// It answers all of them at once.
		all := r.All[:len(r.All):len(r.All)]
		for _, ps := range r.Entries {
			all = append(all, ps...)
		}
		x.visit(0, all)
	default:
		return nil, 0, errEntries
	}
	x.settle(0)
	return x.append(make([]byte, 0, len(answer)), 0), x.taken, nil
}

// A mark says what becomes of a node.
type mark uint8

const (
	stays mark = iota
	goes
	// nulled: it goes, and null takes its place, because a list beside it counts
	// on the places.
	nulled
)

// A redactor marks what is taken out of one document.
type redactor struct {
	d     *document
	marks []mark
	taken int
}

// answers returns the entries of the Bundle that answers a batch or transaction,
// or nil.
func (x *redactor) answers() (entries []int) {
	switch x.d.text(x.d.member(0, "type")) {
	case "batch-response", "transaction-response":
		if list := x.d.member(0, "entry"); x.d.kind(list) == kindArray {
			x.d.kids(list, func(e int) { entries = append(entries, e) })
		}
	}
	return entries
}

// visit redacts every resource from node i on downwards.
func (x *redactor) visit(i int, ps []protocol.Pointer) {
	end := int(x.d.nodes[i].next)
	for ; i < end; i++ {
		if x.d.nodes[i].kind != kindObject {
			continue
		}
		if x.d.member(i, "resourceType") >= 0 {
			x.resource(i, ps)
		}
		// Sections of a Composition have one too.
		if text := x.d.member(i, "text"); x.d.member(text, "div") >= 0 {
			x.take(text, goes)
		}
	}
}

// resource takes out of one resource what pointers lead to.
func (x *redactor) resource(i int, ps []protocol.Pointer) {
	for _, p := range ps {
		x.point(i, -1, p)
	}
}

// take marks a node.
func (x *redactor) take(i int, m mark) {
	if x.marks[i] == stays {
		x.taken++
	}
	if x.marks[i] != goes {
		x.marks[i] = m
	}
}

// name returns the name of a member.
func (x *redactor) name(i int) string {
	n := &x.d.nodes[i]
	return string(x.d.data[n.name:n.nameEnd])
}

// point follows a pointer from node i, which is a member of the object parent,
// or an element of something else if parent is -1.
func (x *redactor) point(i, parent int, p protocol.Pointer) {
	switch x.d.kind(i) {
	case kindObject:
		x.d.kids(i, func(k int) {
			name := x.name(k)
			switch companion, is := strings.CutPrefix(name, "_"); {
			case len(p) > 1:
				if pointsAt(p[0], name) {
					x.point(k, i, p[1:])
				}
			case pointsAt(p[0], name), is && pointsAt(p[0], companion):
				x.take(k, goes)
			}
		})
	case kindArray:
		if len(p) == 1 && p[0] == "*" {
			x.all(i, parent)
			return
		}
		index, isIndex := indexOf(p[0])
		at := 0
		x.d.kids(i, func(k int) {
			switch {
			case p[0] == "*" || isIndex && index == at:
				if len(p) > 1 {
					x.point(k, -1, p[1:])
				} else {
					x.element(i, k, parent, at)
				}
			case !isIndex:
				x.point(k, -1, p)
			}
			at++
		})
	}
}

// all takes all elements out of a list, and with them the list.
func (x *redactor) all(list, parent int) {
	if x.d.nodes[list].next == uint32(list+1) {
		return
	}
	x.take(list, goes)
	if parent >= 0 {
		if companion := x.d.member(parent, "_"+x.name(list)); companion >= 0 {
			x.take(companion, goes)
		}
	}
}

// element takes element k out of the list that is at place at in it. A list of
// primitives has a companion in its parent, whose elements go by their places.
func (x *redactor) element(list, k, parent, at int) {
	if parent < 0 {
		x.take(k, goes)
		return
	}
	name := x.name(list)
	if strings.HasPrefix(name, "_") {
		x.take(k, nulled)
		return
	}
	x.take(k, goes)
	companion := x.d.member(parent, "_"+name)
	if x.d.kind(companion) != kindArray {
		return
	}
	x.d.kids(companion, func(c int) {
		if at == 0 {
			x.take(c, goes)
		}
		at--
	})
}

// pointsAt reports whether a pointer's token is for a member of that name.
func pointsAt(token, member string) bool {
	if token == "*" || token == member {
		return member != "resourceType"
	}
	base, choice := strings.CutSuffix(token, "[x]")
	rest, ok := strings.CutPrefix(member, base)
	return choice && ok && rest != "" && rest[0] >= 'A' && rest[0] <= 'Z'
}

// indexOf reads a token that is an index (RFC 6901 section 4).
func indexOf(token string) (int, bool) {
	if len(token) > 9 || len(token) > 1 && token[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(token, 10, 32)
	return int(n), err == nil
}

// settle finds what has become empty, and reports whether nothing is left of i.
func (x *redactor) settle(i int) bool {
	n := &x.d.nodes[i]
	if x.marks[i] != stays || n.kind != kindObject && n.kind != kindArray || n.next == uint32(i+1) {
		return x.marks[i] == goes
	}
	companion := n.kind == kindArray && n.nameEnd > n.name && x.d.data[n.name] == '_'
	left := false
	x.d.kids(i, func(k int) {
		gone := x.settle(k)
		if gone && companion && x.emptied(k) {
			x.marks[k], gone = nulled, false
		}
		left = left || !gone && !(companion && (x.marks[k] == nulled || x.d.kind(k) == kindNull))
	})
	if !left && i > 0 {
		x.marks[i] = goes
	}
	return !left && i > 0
}

// emptied reports whether a node that goes was not pointed at itself, but lost
// all it held.
func (x *redactor) emptied(i int) bool {
	lost := false
	x.d.kids(i, func(k int) { lost = lost || x.marks[k] != stays })
	return lost
}

// append writes what is left of node i.
func (x *redactor) append(dst []byte, i int) []byte {
	n := &x.d.nodes[i]
	if n.kind != kindObject && n.kind != kindArray {
		return x.d.appendNode(dst, i)
	}
	dst = append(dst, n.kind)
	first := true
	x.d.kids(i, func(k int) {
		if x.marks[k] == goes {
			return
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		if n.kind == kindObject {
			dst = append(append(append(dst, '"'), x.name(k)...), '"', ':')
		}
		if x.marks[k] == nulled {
			dst = append(dst, "null"...)
			return
		}
		dst = x.append(dst, k)
	})
	return append(dst, n.kind+2) // '{' and '}', '[' and ']' are two apart
}

// AnswersJSON reports whether an answer in JSON would be one the device asked for:
// accept is the Accept field, format the _format parameter, which counts more.
func AnswersJSON(accept, format string) bool {
	if format != "" {
		switch strings.ToLower(strings.TrimSpace(strings.ReplaceAll(format, " ", "+"))) {
		case "json", "text/json", "application/json", "application/fhir+json":
			return true
		}
		return false
	}
	if accept == "" {
		return true
	}
	for part := range strings.SplitSeq(accept, ",") {
		media, params, _ := strings.Cut(part, ";")
		switch strings.ToLower(strings.Trim(media, " \t")) {
		case "*/*", "application/*", "application/json", "application/fhir+json":
			if quality(params) > 0 {
				return true
			}
		}
	}
	return false
}
