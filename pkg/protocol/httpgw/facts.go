package httpgw

import (
	"net/http"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// shown are the header fields policies and the audit log see. Others may carry
// secrets (Authorization, Cookie) or anything at all.
var shown = [...]string{"accept", "content-encoding", "if-match", "if-modified-since", "if-none-exist", "if-none-match", "prefer", "user-agent"}

// shownAt returns a field's place in shown, or -1.
func shownAt(name string) int {
	switch name {
	case "accept":
		return 0
	case "content-encoding":
		return 1
	case "if-match":
		return 2
	case "if-modified-since":
		return 3
	case "if-none-exist":
		return 4
	case "if-none-match":
		return 5
	case "prefer":
		return 6
	case "user-agent":
		return 7
	}
	return -1
}

// mediaType returns a Content-Type without parameters, in lower case.
func mediaType(v string) string {
	t, _, _ := strings.Cut(v, ";")
	return http1.LowerASCII(strings.Trim(t, " \t"))
}

// facts returns the object that describes a request as HTTP.
func (m *message) facts(fhirBase int) protocol.Field {
	path := make([]protocol.Value, len(m.target.Path))
	for i, seg := range m.target.Path {
		if fhirBase < 0 && identifies(seg) || fhirBase >= 0 && i >= fhirBase && !fhirWord(seg) {
			path[i] = protocol.Sensitive(seg)
		} else {
			path[i] = protocol.String(seg)
		}
	}
	ct, _ := m.header.Get("content-type")
	return protocol.Field{Name: "http", Value: protocol.Object(
		protocol.Field{Name: "method", Value: protocol.String(m.method)},
		protocol.Field{Name: "host", Value: protocol.String(m.host)},
		protocol.Field{Name: "path", Value: protocol.List(path...)},
		protocol.Field{Name: "query", Value: m.queryFacts()},
		protocol.Field{Name: "headers", Value: m.headerFacts()},
		protocol.Field{Name: "content_type", Value: protocol.String(mediaType(ct))},
	)}
}

// queryFacts returns an object of name to list of values.
func (m *message) queryFacts() protocol.Value {
	if len(m.target.Query) == 0 {
		return protocol.Object()
	}
	var names []string
	values := map[string][]protocol.Value{}
	for _, p := range m.target.Query {
		if _, ok := values[p.Name]; !ok {
			names = append(names, p.Name)
		}
		values[p.Name] = append(values[p.Name], protocol.Sensitive(p.Value))
	}
	fields := make([]protocol.Field, len(names))
	for i, n := range names {
		fields[i] = protocol.Field{Name: n, Value: protocol.List(values[n]...)}
	}
	return protocol.Object(fields...)
}

// headerFacts returns an object of name to list of values of the shown fields.
func (m *message) headerFacts() protocol.Value {
	var count [len(shown)]int
	total, names := 0, 0
	for i := range m.header {
		if at := shownAt(m.header[i].Name); at >= 0 {
			if count[at] == 0 {
				names++
			}
			count[at]++
			total++
		}
	}
	if total == 0 {
		return protocol.Object()
	}
	// Most fields are there once, so that one slice holds all their lists.
	values := make([]protocol.Value, 0, total)
	fields := make([]protocol.Field, 0, names)
	for at, n := range count {
		if n == 0 {
			continue
		}
		from := len(values)
		for i := range m.header {
			if m.header[i].Name != shown[at] {
				continue
			}
			if v := m.header[i].Value; shown[at] == "if-none-exist" { // search criteria
				values = append(values, protocol.Sensitive(v))
			} else {
				values = append(values, protocol.String(v))
			}
		}
		fields = append(fields, protocol.Field{Name: shown[at], Value: protocol.List(values[from:len(values):len(values)]...)})
	}
	return protocol.Object(fields...)
}

// identifies reports whether a path segment may name one thing rather than a
// kind of things: it has a digit in it, or is longer than words are.
func identifies(seg string) bool {
	return len(seg) > 32 || strings.ContainsAny(seg, "0123456789@")
}

// fhirWord reports whether a path segment is a word of FHIR's REST API rather
// than an id: a resource type, an operation or a reserved name.
func fhirWord(seg string) bool {
	if seg == "" || seg == "metadata" || seg[0] == '_' || seg[0] == '$' {
		return true
	}
	if seg[0] < 'A' || seg[0] > 'Z' || len(seg) > 40 {
		return false
	}
	for i := range len(seg) {
		if c := seg[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
			return false
		}
	}
	return true
}

// template returns a path with whatever may identify something left out.
func template(path []string) string {
	var b strings.Builder
	for _, seg := range path {
		b.WriteByte('/')
		if identifies(seg) {
			b.WriteString("{}")
		} else {
			b.WriteString(seg)
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// transaction describes a request that is judged as plain HTTP.
func (m *message) transaction() protocol.Transaction {
	return protocol.Transaction{
		Protocol: "http", Action: m.method, Resource: template(m.target.Path), Bytes: m.length,
		Facts: []protocol.Field{m.facts(-1)},
	}
}

// nobody reports whether a response has no body whatever its head says (RFC 9112
// section 6.3).
func nobody(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified || status < 200
}
