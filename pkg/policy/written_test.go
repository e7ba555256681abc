package policy

import (
	"strings"
	"testing"
)

func TestWhatIsWrittenByHandIsComparedWithTheSchema(t *testing.T) {
	for in, want := range map[string]string{
		`{"request": {"protocol": "fhir", "fhir": {"interaction": "read", "type": "Patient"}}}`: "",
		`{"request": {"protocol": "http", "http": {"query": {"anything": ["x"]}}}}`:             "",
		`{}`:                                   "",
		`{"request": {"protocol": 7}}`:         "request.protocol: ",
		`{"request": {"fhri": {}}}`:            `request has no field "fhri", did you mean "fhir"?`,
		`{"request": {"fhir": {"tpye": "x"}}}`: `request.fhir has no field "tpye", did you mean "type"?`,
		`{"request": [`:                        "unexpected EOF",
	} {
		err := CheckWritten([]byte(in))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", in, err, want)
		}
	}
}
