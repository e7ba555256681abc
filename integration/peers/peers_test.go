package peers

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol/fhir"
)

// call makes a request and returns the status and the body.
func call(t *testing.T, c *http.Client, method, url, contentType string, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestFHIRServerIsReal(t *testing.T) {
	s := StartFHIR(t, "")
	const json = "application/fhir+json"
	status, body := call(t, s.Client, "POST", s.URL+"/Observation", json, []byte(`{"resourceType":"Observation","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/1"}}`))
	if status != http.StatusCreated {
		t.Fatalf("create: %d %s", status, body)
	}
	for _, c := range []struct {
		method, url, contentType, body string
		status                         int
		has                            string
	}{
		{"GET", "/Observation?subject=Patient/1", "", "", 200, `"total":1`},
		{"GET", "/Observation?subject=Patient/2", "", "", 200, `"total":0`},
		{"POST", "/Observation/_search", "application/x-www-form-urlencoded", "subject=Patient/2", 200, `"total":0`},
		{"GET", "/Observation/none", "", "", 404, `OperationOutcome`},
		{"GET", "/metadata", "", "", 200, `CapabilityStatement`},
		{"PUT", "/Device/d", json, `{"resourceType":"Device","id":"d"}`, 200, `"id":"d"`},
		{"POST", "", json, `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Device/d"}},{"request":{"method":"GET","url":"Device/e"}}]}`, 200, `batch-response`},
		{"POST", "/Observation", "application/fhir+xml", `<a/>`, 415, `OperationOutcome`},
		{"POST", "/Observation", json, `{"resourceType":"Patient"}`, 400, `OperationOutcome`},
	} {
		status, body := call(t, s.Client, c.method, s.URL+c.url, c.contentType, []byte(c.body))
		if status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s %s: %d %s", c.method, c.url, status, body)
		}
	}
	if a := s.Arrivals(); len(a) != 10 || a[0].Method != "POST" || a[0].URL != "/fhir/Observation" || a[0].Headers["content-type"] != json {
		t.Errorf("arrived: %+v", a)
	}
	s.Reset()
	if a := s.Arrivals(); len(a) != 0 {
		t.Errorf("arrived: %+v", a)
	}
	s.Stop()
	if _, err := s.Client.Get(s.URL + "/metadata"); err == nil {
		t.Error("it answers after its end")
	}
}

func TestOrthancStoresAndFinds(t *testing.T) {
	o := StartOrthanc(t)
	contentType, body := STOW(t, CT(t))
	c := &http.Client{Timeout: patience}
	defer c.CloseIdleConnections()
	if status, answer := call(t, c, "POST", o.URL+"/dicom-web/studies", contentType, body); status != http.StatusOK {
		t.Fatalf("STOW: %d %s", status, answer)
	}
	status, answer := call(t, c, "GET", o.URL+"/dicom-web/studies?PatientID=1CT1", "", nil)
	var found []any
	if err := json.Unmarshal([]byte(answer), &found); err != nil || status != http.StatusOK || len(found) != 1 {
		t.Errorf("QIDO: %d %s %v", status, answer, err)
	}
}

// unlike are official examples that are refused, and why.
var unlike = map[string]string{
	"Bundle-dataelements":        "too many values", // of 11 MB
	"Bundle-resources":           "too many values", // of 26 MB
	"Bundle-valueset-expansions": "too many values", // of 10 MB
	"SearchParameter-questionnaireresponse-extensions-QuestionnaireResponse-item-subject": "id is not one", // longer than 64
}

// Every official example is understood by the FHIR package, as a create of its
// type.
func TestEveryExampleIsUnderstood(t *testing.T) {
	types := map[string]bool{}
	n := 0
	for e := range Examples(t) {
		n++
		types[e.Type] = true
		i, err := fhir.Parse(&fhir.Request{Method: "POST", Path: []string{e.Type}}, fhir.Limits{})
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
			continue
		}
		err = i.ReadBody("application/fhir+json", e.Body)
		if why := unlike[e.Name]; why != "" {
			if err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%s: %v, want a refusal: %s", e.Name, err, why)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
			continue
		}
		sent := i.AppendBody(nil)
		if a, b := decode(t, e.Body), decode(t, sent); !bytes.Equal(a, b) {
			t.Errorf("%s is sent on as something else", e.Name)
		}
	}
	if n != 5306 || len(types) != 140 {
		t.Errorf("met %d examples of %d types", n, len(types))
	}
}

// decode returns what a text of JSON says, in one form.
func decode(t *testing.T, data []byte) []byte {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
