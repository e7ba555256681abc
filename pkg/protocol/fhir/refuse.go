package fhir

import (
	"net/http"
	"strings"
)

// A Refusal says why a request is not understood.
type Refusal struct {
	Status int    // the HTTP status to answer with
	Code   string // the issue type of the OperationOutcome
	// Why is a sentence for the device's maker and the record. It holds no byte
	// the device sent.
	Why string
}

// Error implements error.
func (r *Refusal) Error() string { return r.Why }

func refuse(status int, why string) *Refusal { return &Refusal{status, codeOf(status), why} }

// codeOf returns the issue type (http://hl7.org/fhir/R4/valueset-issue-type.html)
// that says what an HTTP status does.
func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "security"
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusNotFound:
		return "not-found"
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType, http.StatusNotImplemented, http.StatusExpectationFailed:
		return "not-supported"
	case http.StatusConflict, http.StatusPreconditionFailed:
		return "conflict"
	case http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusRequestHeaderFieldsTooLarge:
		return "too-long"
	case http.StatusTooManyRequests:
		return "throttled"
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return "timeout"
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return "transient"
	}
	if status >= http.StatusInternalServerError {
		return "exception"
	}
	return "invalid"
}

// An Issue is what an OperationOutcome says.
type Issue struct {
	Code     string // issue type, such as "forbidden"
	Text     string // a sentence for people; nothing of a policy's inside
	Decision string // the decision's id, or ""
}

// IssueOf returns the issue that explains an HTTP status.
func IssueOf(status int, text, decision string) Issue {
	return Issue{codeOf(status), text, decision}
}

// Outcome returns an OperationOutcome as the device asked for it: accept is the
// Accept field, format the _format parameter, which counts more. JSON is the
// answer to whatever asks for neither JSON nor XML.
func Outcome(accept, format string, issue Issue) (contentType string, body []byte) {
	if wantsXML(accept, format) {
		return "application/fhir+xml; charset=utf-8", issue.appendXML(nil)
	}
	return "application/fhir+json; charset=utf-8", issue.appendJSON(nil)
}

// wantsXML reports whether XML is asked for, and rather than JSON. A space in
// format is a plus that was not escaped.
func wantsXML(accept, format string) bool {
	if format != "" {
		return isXML(strings.ReplaceAll(format, " ", "+"))
	}
	xml, json := -1, -1
	for part := range strings.SplitSeq(accept, ",") {
		media, params, _ := strings.Cut(part, ";")
		q := quality(params)
		switch media = strings.Trim(media, " \t"); {
		case isXML(media):
			xml = max(xml, q)
		case strings.Contains(media, "json") || media == "*/*" || media == "application/*":
			json = max(json, q)
		}
	}
	return xml > 0 && xml > json
}

func isXML(media string) bool {
	switch media = strings.ToLower(strings.TrimSpace(media)); media {
	case "xml", "text/xml", "application/xml", "application/fhir+xml", "application/xml+fhir":
		return true
	}
	return false
}

// quality returns the weight among a media range's parameters, in thousandths
// (RFC 9110 section 12.4.2).
func quality(params string) int {
	for p := range strings.SplitSeq(params, ";") {
		v, ok := strings.CutPrefix(strings.Trim(p, " \t"), "q=")
		if !ok {
			continue
		}
		whole, frac, _ := strings.Cut(v, ".")
		if whole != "0" {
			return 1000
		}
		q, unit := 0, 100
		for i := 0; i < len(frac) && i < 3; i++ {
			if frac[i] < '0' || frac[i] > '9' {
				return 0
			}
			q += int(frac[i]-'0') * unit
			unit /= 10
		}
		return q
	}
	return 1000
}

func (s *Issue) diagnostics() string {
	if s.Decision == "" {
		return ""
	}
	return "decision " + s.Decision
}

func (s *Issue) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":`...)
	dst = appendString(dst, s.Code)
	if s.Text != "" {
		dst = appendString(append(dst, `,"details":{"text":`...), s.Text)
		dst = append(dst, '}')
	}
	if d := s.diagnostics(); d != "" {
		dst = appendString(append(dst, `,"diagnostics":`...), d)
	}
	return append(dst, "}]}"...)
}

func (s *Issue) appendXML(dst []byte) []byte {
	dst = append(dst, `<?xml version="1.0" encoding="UTF-8"?><OperationOutcome xmlns="http://hl7.org/fhir"><issue><severity value="error"/><code value="`...)
	dst = append(appendXMLText(dst, s.Code), `"/>`...)
	if s.Text != "" {
		dst = appendXMLText(append(dst, `<details><text value="`...), s.Text)
		dst = append(dst, `"/></details>`...)
	}
	if d := s.diagnostics(); d != "" {
		dst = appendXMLText(append(dst, `<diagnostics value="`...), d)
		dst = append(dst, `"/>`...)
	}
	return append(dst, `</issue></OperationOutcome>`...)
}

// appendXMLText appends s as an attribute's value. XML 1.0 has no way to say a
// control character, so those are left out.
func appendXMLText(dst []byte, s string) []byte {
	for _, c := range s {
		switch {
		case c == '&':
			dst = append(dst, "&amp;"...)
		case c == '<':
			dst = append(dst, "&lt;"...)
		case c == '>':
			dst = append(dst, "&gt;"...)
		case c == '"':
			dst = append(dst, "&quot;"...)
		case c < ' ' || c == 0xFFFE || c == 0xFFFF:
		default:
			dst = append(dst, string(c)...)
		}
	}
	return dst
}
