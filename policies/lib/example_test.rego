# Inputs for tests, whole as the gateway builds them. A test changes what it is
# about with "with input.request.fhir.type as ...".
package anteroom.lib.example_test

monitor := {
	"device": {
		"id": "monitor-0007",
		"class": "patient-monitor",
		"manufacturer": "Example Devices",
		"model": "M-100",
		"serial": "A7",
		"udi": "",
		"location": "icu-2",
		"owner": "intensive care",
		"tags": {},
		"status": "active",
		"life_critical": false,
		"patients": ["1"],
		"posture": {
			"firmware": "4.2.0",
			"max_cvss": 5.3,
			"assessed": true,
			"assessed_at": "2026-01-10T08:00:00Z",
			"age_days": 40,
		},
		"cert": {
			"serial": "1234",
			"fingerprint": "00ff",
			"not_after": "2027-01-01T00:00:00Z",
			"hardware_backed": false,
		},
	},
	"session": {
		"listener": "devices",
		"remote_ip": "10.1.2.3",
		"tls": {
			"version": "1.3",
			"cipher": "TLS_AES_128_GCM_SHA256",
			"group": "X25519MLKEM768",
			"sni": "gateway.example",
			"alpn": "h2",
		},
		"age_s": 12,
	},
	"request": {
		"protocol": "fhir",
		"action": "create",
		"resource": "Observation",
		"bytes": 900,
		"http": {
			"method": "POST",
			"host": "gateway.example",
			"path": ["fhir", "Observation"],
			"query": {},
			"headers": {},
			"content_type": "application/fhir+json",
		},
		"fhir": fhir,
	},
	"route": {"name": "ehr", "backend": "ehr", "environment": "clinical", "class": "clinical", "quarantine_lane": false},
	"time": {"weekday": "monday", "hour": 9, "minute": 30, "date": "2026-02-16"},
	"behaviour": {"level": "none", "signals": []},
	"break_glass": {"active": false},
}

fhir := {
	"interaction": "create",
	"type": "Observation",
	"id": "",
	"version": "",
	"patient": "1",
	"patients": ["1"],
	"operation": "",
	"level": "type",
	"params": [],
	"modifiers": [],
	"includes": [],
	"chains": [],
	"result_params": [],
	"unknown_params": [],
	"preconditions": [],
	"conditional": false,
	"entries": [],
	"entry": false,
}

pump := object.union(monitor, {"device": {"id": "pump-0042", "class": "infusion-pump"}})

# The pump asks for the orders of one patient.
orders := object.union(pump, {"request": {
	"action": "search-type",
	"resource": "MedicationRequest",
	"fhir": {"interaction": "search-type", "type": "MedicationRequest", "params": ["patient"]},
}})

# The scanner stores a study.
store := object.union(monitor, {
	"device": {"id": "ct-0001", "class": "ct-scanner"},
	"request": {
		"protocol": "http",
		"action": "POST",
		"resource": "",
		"http": {"path": ["dicom-web", "studies"], "content_type": "multipart/related"},
	},
})
