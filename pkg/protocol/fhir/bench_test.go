package fhir

import (
	"encoding/json"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// observation is what a monitor sends, of 1 kB.
const observation = `{"resourceType":"Observation","meta":{"profile":["http://hl7.org/fhir/StructureDefinition/heartrate"]},` +
	`"identifier":[{"system":"urn:ietf:rfc:3986","value":"urn:uuid:187e0c12-8dd2-67e2-99b2-bf273c878281"}],"status":"final",` +
	`"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs","display":"Vital Signs"}],` +
	`"text":"Vital Signs"}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"Heart rate"}],"text":"Heart rate"},` +
	`"subject":{"reference":"Patient/p-000123"},"encounter":{"reference":"Encounter/e-77"},"effectiveDateTime":"2026-03-02T10:15:30.250+01:00",` +
	`"issued":"2026-03-02T10:15:31.000+01:00","performer":[{"reference":"Practitioner/nurse-9"}],"valueQuantity":{"value":72.50,"unit":"beats/minute",` +
	`"system":"http://unitsofmeasure.org","code":"/min"},"interpretation":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",` +
	`"code":"N"}]}],"device":{"reference":"Device/monitor-0007"},"note":[{"text":"zwei \"Z\u00e4hler\""}]}`

func BenchmarkReadJSON(b *testing.B) {
	data := []byte(observation)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, f := readJSON(data, limits()); f != nil {
			b.Fatal(f)
		}
	}
}

// BenchmarkEncodingJSON is what the standard library takes for the same, without
// finding members that are there twice.
func BenchmarkEncodingJSON(b *testing.B) {
	data := []byte(observation)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreate(b *testing.B) {
	data := []byte(observation)
	r := request(b, "POST", "Observation")
	b.ReportAllocs()
	for b.Loop() {
		i, err := Parse(r, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if err := i.ReadBody(fhirJSON, data); err != nil {
			b.Fatal(err)
		}
		var tx protocol.Transaction
		i.Transaction(&tx)
	}
}

// BenchmarkCreateUnread is a create that nobody has to know the body of.
func BenchmarkCreateUnread(b *testing.B) {
	r := request(b, "POST", "Observation")
	b.ReportAllocs()
	for b.Loop() {
		i, err := Parse(r, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		var tx protocol.Transaction
		i.Transaction(&tx)
	}
}

func BenchmarkSearch(b *testing.B) {
	r := request(b, "GET", "MedicationRequest?patient=Patient/1&status=active&_include=MedicationRequest:medication&_count=10")
	b.ReportAllocs()
	for b.Loop() {
		i, err := Parse(r, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		var tx protocol.Transaction
		i.Transaction(&tx)
	}
}

func BenchmarkRead(b *testing.B) {
	r := request(b, "GET", "MedicationRequest/1")
	b.ReportAllocs()
	for b.Loop() {
		i, err := Parse(r, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		var tx protocol.Transaction
		i.Transaction(&tx)
	}
}
