package demo

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// A profile is one of the demo's devices: what it is and what it does all day.
type profile struct {
	id, class, model, location string
	lifeCritical               bool
	every                      time.Duration
	// act does the device's n-th piece of work, from 0.
	act func(ctx context.Context, d *simulated, n int) error
}

// profiles are the six devices of the demo's hospital, one of each shipped class.
var profiles = []profile{
	{id: "monitor-icu-01", class: "patient-monitor", model: "Vista 120", location: "icu", lifeCritical: true, every: 400 * time.Millisecond, act: monitor},
	{id: "pump-icu-02", class: "infusion-pump", model: "Flow 8", location: "icu", lifeCritical: true, every: 900 * time.Millisecond, act: pump},
	{id: "vent-icu-03", class: "ventilator", model: "Air 5", location: "icu", lifeCritical: true, every: 700 * time.Millisecond, act: ventilator},
	{id: "ct-radiology-04", class: "ct-scanner", model: "Slice 64", location: "radiology", every: 2500 * time.Millisecond, act: scanner},
	{id: "glucose-ward-05", class: "glucose-meter", model: "Gluco 3", location: "ward-5", every: 1600 * time.Millisecond, act: meter},
	{id: "wearables-ward-06", class: "wearable-gateway", model: "Hub 2", location: "ward-5", every: 1300 * time.Millisecond, act: wearables},
}

// A simulated device has its own key, certificate and connection, and nothing
// else: it knows of the gateway what a real one would.
type simulated struct {
	profile
	base   string
	client *http.Client
	rnd    *rand.Rand
}

// run works until ctx ends, and has worked once, however soon that is. A request that fails is not repeated: the summary
// shows it.
func (d *simulated) run(ctx context.Context) {
	tick := time.NewTicker(d.every)
	defer tick.Stop()
	for n := 0; ; n++ {
		turn := ctx
		if n == 0 {
			turn = context.WithoutCancel(ctx)
		}
		if err := d.act(turn, d, n); err != nil && turn.Err() == nil {
			// The gateway's answer was counted where it was given; an error here
			// is a connection that broke, which the next tick makes anew.
			d.client.CloseIdleConnections()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// send sends one request and reads the whole answer.
func (d *simulated) send(ctx context.Context, method, path, contentType, body string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, d.base+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	if body == "" {
		req.Body, req.ContentLength = nil, 0
	} else {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (d *simulated) fhir(ctx context.Context, method, path, body string) error {
	_, err := d.send(ctx, method, "/fhir"+path, "application/fhir+json", body)
	return err
}

// observation returns a measurement as devices send it, with a LOINC code and a
// UCUM unit.
func observation(category, loinc, display, patient, unit string, value float64) string {
	return fmt.Sprintf(`{"resourceType":"Observation","status":"final",`+
		`"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":%q}]}],`+
		`"code":{"coding":[{"system":"http://loinc.org","code":%q,"display":%q}]},"subject":{"reference":"Patient/%s"},`+
		`"valueQuantity":{"value":%.1f,"unit":%q,"system":"http://unitsofmeasure.org","code":%q}}`,
		category, loinc, display, patient, value, unit, unit)
}

func vital(loinc, display, patient, unit string, value float64) string {
	return observation("vital-signs", loinc, display, patient, unit, value)
}

func monitor(ctx context.Context, d *simulated, n int) error {
	if n%9 == 8 {
		return d.fhir(ctx, http.MethodPost, "/DetectedIssue", `{"resourceType":"DetectedIssue","status":"final","severity":"high",`+
			`"code":{"text":"SpO2 low"},"patient":{"reference":"Patient/p1"}}`)
	}
	if n%2 == 0 {
		return d.fhir(ctx, http.MethodPost, "/Observation", vital("8867-4", "Heart rate", "p1", "/min", 60+40*d.rnd.Float64()))
	}
	return d.fhir(ctx, http.MethodPost, "/Observation", vital("59408-5", "Oxygen saturation", "p1", "%", 90+9*d.rnd.Float64()))
}

func pump(ctx context.Context, d *simulated, n int) error {
	if n%2 == 0 {
		return d.fhir(ctx, http.MethodGet, "/MedicationRequest/order-1", "")
	}
	return d.fhir(ctx, http.MethodPost, "/MedicationAdministration", `{"resourceType":"MedicationAdministration","status":"in-progress",`+
		`"medicationCodeableConcept":{"text":"Norepinephrine"},"subject":{"reference":"Patient/p1"},"request":{"reference":"MedicationRequest/order-1"},`+
		`"effectiveDateTime":"2026-01-01T08:00:00Z"}`)
}

func ventilator(ctx context.Context, d *simulated, _ int) error {
	return d.fhir(ctx, http.MethodPost, "/Observation", vital("9279-1", "Respiratory rate", "p1", "/min", 12+6*d.rnd.Float64()))
}

func scanner(ctx context.Context, d *simulated, _ int) error {
	// A STOW-RS request (PS3.18 section 10.5) with one very small part.
	const part = "--cut\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--cut--\r\n"
	_, err := d.send(ctx, http.MethodPost, "/dicom-web/studies", `multipart/related; type="application/dicom"; boundary=cut`, part)
	return err
}

func meter(ctx context.Context, d *simulated, _ int) error {
	return d.fhir(ctx, http.MethodPost, "/Observation", observation("laboratory", "2339-0", "Glucose", "p2", "mg/dL", 80+70*d.rnd.Float64()))
}

func wearables(ctx context.Context, d *simulated, _ int) error {
	var entries []string
	for _, p := range []string{"p2", "p3", "p4"} {
		entries = append(entries, fmt.Sprintf(`{"resource":%s,"request":{"method":"POST","url":"Observation"}}`,
			vital("8867-4", "Heart rate", p, "/min", 60+40*d.rnd.Float64())))
	}
	return d.fhir(ctx, http.MethodPost, "", `{"resourceType":"Bundle","type":"batch","entry":[`+strings.Join(entries, ",")+`]}`)
}

// patients are what an attacker is after.
var patients = map[string]string{
	"p1": `{"resourceType":"Patient","id":"p1","name":[{"family":"Adler","given":["Ines"]}]}`,
	"p2": `{"resourceType":"Patient","id":"p2","name":[{"family":"Brandt","given":["Oskar"]}]}`,
	"p3": `{"resourceType":"Patient","id":"p3","name":[{"family":"Conti","given":["Lia"]}]}`,
	"p4": `{"resourceType":"Patient","id":"p4","name":[{"family":"Dahl","given":["Nils"]}]}`,
}
