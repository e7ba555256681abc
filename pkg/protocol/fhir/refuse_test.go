package fhir

import (
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
)

func TestOutcomeFollowsWhatIsAsked(t *testing.T) {
	for _, c := range []struct {
		accept, format string
		xml            bool
	}{
		{"", "", false}, {"*/*", "", false}, {"application/fhir+json", "", false}, {"application/fhir+xml", "", true}, {"application/xml", "", true},
		{"text/xml", "", true}, {"Application/FHIR+XML; charset=utf-8", "", true}, {"application/fhir+json, application/fhir+xml", "", false},
		{"application/fhir+xml, application/fhir+json", "", false}, {"application/fhir+xml, application/fhir+json;q=0.9", "", true},
		{"application/fhir+xml;q=0.5, application/fhir+json;q=0.25", "", true}, {"application/fhir+xml;q=0.125, */*;q=0.2", "", false},
		{"application/fhir+xml;q=0", "", false}, {"text/html, application/fhir+xml;q=0.9, */*;q=0.8", "", true}, {"text/html", "", false},
		{"application/fhir+json", "xml", true}, {"application/fhir+xml", "json", false}, {"", "application/fhir xml", true}, {"", "application/fhir+xml", true},
		{"application/fhir+xml;q=x", "", true}, {"application/fhir+xml;q=0.x", "", false}, {",;,=", "", false},
	} {
		ct, body := Outcome(c.accept, c.format, IssueOf(403, "no <one> & \"nobody\"\n", "d-1"))
		if strings.Contains(ct, "xml") != c.xml {
			t.Errorf("%q %q: %s", c.accept, c.format, ct)
		}
		var got struct {
			XMLName xml.Name `json:"-"`
			Issue   []struct {
				Code    any `json:"code" xml:"-"`
				Details struct {
					Text any `json:"text" xml:"-"`
				} `json:"details" xml:"-"`
				Diagnostics any `json:"diagnostics" xml:"-"`
			} `json:"issue" xml:"issue"`
		}
		var err error
		if c.xml {
			err = xml.Unmarshal(body, &got)
			for _, s := range []string{`xmlns="http://hl7.org/fhir"`, `<code value="forbidden"/>`, `no &lt;one&gt; &amp; &quot;nobody&quot;"`, `<diagnostics value="decision d-1"/>`} {
				if !strings.Contains(string(body), s) {
					t.Errorf("%s lacks %s", body, s)
				}
			}
		} else if err = json.Unmarshal(body, &got); err == nil {
			if len(got.Issue) != 1 || got.Issue[0].Code != "forbidden" || got.Issue[0].Details.Text != "no <one> & \"nobody\"\n" || got.Issue[0].Diagnostics != "decision d-1" {
				t.Errorf("got %s", body)
			}
			if i := parse(t, "POST", "OperationOutcome"); i.ReadBody(ct, body) != nil {
				t.Errorf("%s is none to us", body)
			}
		}
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestIssueTypes(t *testing.T) {
	for status, want := range map[int]string{
		400: "invalid", 401: "security", 403: "forbidden", 404: "not-found", 405: "not-supported", 408: "timeout", 409: "conflict", 412: "conflict",
		413: "too-long", 414: "too-long", 415: "not-supported", 422: "invalid", 429: "throttled", 431: "too-long", 500: "exception", 501: "not-supported",
		502: "transient", 503: "transient", 504: "timeout",
	} {
		if i := IssueOf(status, "", ""); i.Code != want {
			t.Errorf("%d: %s, want %s", status, i.Code, want)
		}
	}
	if _, b := Outcome("", "", Issue{Code: "invalid"}); string(b) != `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"invalid"}]}` {
		t.Errorf("got %s", b)
	}
}
