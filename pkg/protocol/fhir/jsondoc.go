package fhir

import "unicode/utf8"

// member returns the node of an object's member, or -1.
func (d *document) member(obj int, name string) int {
	if obj < 0 || d.nodes[obj].kind != kindObject {
		return -1
	}
	for i := obj + 1; i < int(d.nodes[obj].next); i = int(d.nodes[i].next) {
		n := &d.nodes[i]
		if int(n.nameEnd-n.name) == len(name) && string(d.data[n.name:n.nameEnd]) == name {
			return i
		}
	}
	return -1
}

// kids calls f with each value a list or an object holds.
func (d *document) kids(i int, f func(kid int)) {
	for k := i + 1; k < int(d.nodes[i].next); k = int(d.nodes[k].next) {
		f(k)
	}
}

func (d *document) kind(i int) byte {
	if i < 0 {
		return 0
	}
	return d.nodes[i].kind
}

// replace has appendNode write a string as s.
func (d *document) replace(i int, s string) {
	if d.text(i) == s {
		return
	}
	if d.replaced == nil {
		d.replaced = map[int]string{}
	}
	d.replaced[i] = s
}

// text returns the text of a string, and "" of anything else or nothing.
func (d *document) text(i int) string {
	if i < 0 || d.nodes[i].kind != kindString {
		return ""
	}
	n := &d.nodes[i]
	raw := d.data[n.at:n.end]
	if !n.escaped {
		return string(raw)
	}
	return string(unescape(make([]byte, 0, len(raw)), raw))
}

// unescape appends the text of a string that was read, without its escapes.
func unescape(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		c = raw[i+1]
		i += 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			v, _ := hex4(raw, i)
			i += 4
			if 0xD800 <= v && v <= 0xDBFF {
				w, _ := hex4(raw, i+2)
				v = (v-0xD800)<<10 + (w - 0xDC00) + 0x10000
				i += 6
			}
			dst = utf8.AppendRune(dst, v)
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// appendNode appends the one serialisation of a value to dst: no white space,
// only the escapes JSON cannot do without, numbers as they were written (their
// precision means something in FHIR).
func (d *document) appendNode(dst []byte, i int) []byte {
	n := &d.nodes[i]
	switch n.kind {
	case kindObject, kindArray:
		dst = append(dst, n.kind)
		for k := i + 1; k < int(n.next); k = int(d.nodes[k].next) {
			if k > i+1 {
				dst = append(dst, ',')
			}
			if n.kind == kindObject {
				m := &d.nodes[k]
				dst = append(dst, '"')
				dst = append(dst, d.data[m.name:m.nameEnd]...)
				dst = append(dst, '"', ':')
			}
			dst = d.appendNode(dst, k)
		}
		return append(dst, n.kind+2) // '{' and '}', '[' and ']' are two apart
	case kindString:
		if s, ok := d.replaced[i]; ok {
			return appendString(dst, s)
		}
		raw := d.data[n.at:n.end]
		if !n.escaped {
			dst = append(append(dst, '"'), raw...)
			return append(dst, '"')
		}
		return appendString(dst, string(unescape(nil, raw)))
	}
	return append(dst, d.data[n.at:n.end]...)
}

// appendString appends a string of JSON. s is UTF-8.
func appendString(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
