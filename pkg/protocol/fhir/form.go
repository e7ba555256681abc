package fhir

import (
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

// parseForm reads parameters in the form of a query
// (application/x-www-form-urlencoded), as strictly as those of a request's own
// query are read: an invalid escape, a semicolon (some servers split there,
// others drop the whole query), a parameter without a name, a control character
// or what is not UTF-8 is refused.
func parseForm(q string, most int) ([]Param, *Refusal) {
	if q == "" {
		return nil, nil
	}
	if strings.IndexByte(q, ';') >= 0 {
		return nil, refuse(http.StatusBadRequest, "the parameters hold a semicolon")
	}
	n := strings.Count(q, "&") + 1
	if n > most {
		return nil, tooManyParams()
	}
	out := make([]Param, 0, n)
	for more := true; more; {
		var pair string
		pair, q, more = strings.Cut(q, "&")
		name, value, _ := strings.Cut(pair, "=")
		var p Param
		var f *Refusal
		if p.Name, f = unescapeParam(name); f != nil {
			return nil, f
		}
		if p.Value, f = unescapeParam(value); f != nil {
			return nil, f
		}
		if p.Name == "" {
			return nil, refuse(http.StatusBadRequest, "a parameter has no name")
		}
		out = append(out, p)
	}
	return out, nil
}

func tooManyParams() *Refusal {
	return refuse(http.StatusRequestEntityTooLarge, "the request has too many parameters")
}

func unescapeParam(s string) (string, *Refusal) {
	clean := true
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == 0x7f:
			return "", refuse(http.StatusBadRequest, "a parameter holds a control character")
		case c == '%' || c == '+' || c >= utf8.RuneSelf:
			clean = false
		}
	}
	if clean {
		return s, nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			var ok bool
			if c, ok = http1.Unescape(s, i); !ok {
				return "", refuse(http.StatusBadRequest, "a parameter holds an invalid percent escape")
			}
			i += 2
			if c < ' ' || c == 0x7f {
				return "", refuse(http.StatusBadRequest, "a parameter holds a control character")
			}
		}
		out = append(out, c)
	}
	if !utf8.Valid(out) {
		return "", refuse(http.StatusBadRequest, "a parameter is not UTF-8")
	}
	text := string(out)
	if http1.HasC1(text) {
		return "", refuse(http.StatusBadRequest, "a parameter holds a control character")
	}
	return text, nil
}

// appendForm appends the one serialisation of parameters to dst.
func appendForm(dst []byte, ps []Param) []byte {
	for i, p := range ps {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = append(appendEscaped(dst, p.Name), '=')
		dst = appendEscaped(dst, p.Value)
	}
	return dst
}

func appendEscaped(dst []byte, s string) []byte {
	const hexDigits = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; isAlnum(c) || strings.IndexByte("-._~,:/|*$", c) >= 0 {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return dst
}
