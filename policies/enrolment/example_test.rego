# Inputs for tests, whole as the gateway builds them.
package anteroom.enrolment_test

by_token := {
	"enrolment": {
		"way": "est",
		"proof": "token",
		"renewal": false,
		"operator": "",
		"manufacturer": "",
		"approved": true,
		"remote_ip": "10.20.0.7",
		"names": [],
		"csr": {
			"key": {"type": "ecdsa", "bits": 256, "again": false},
			"signature": "ECDSA-SHA256",
			"common_name": "pump-0042",
			"sans": {"dns": [], "ip": [], "email": [], "uri": []},
		},
	},
	"device": {
		"id": "pump-0042",
		"class": "infusion-pump",
		"manufacturer": "Example Devices",
		"model": "P1",
		"serial": "88123",
		"udi": "",
		"location": "icu",
		"owner": "biomed",
		"tags": {},
		"status": "pending",
		"life_critical": true,
		"posture": {"firmware": "", "max_cvss": 0, "assessed": false, "assessed_at": ""},
	},
	"time": {"weekday": "monday", "hour": 9, "minute": 30, "date": "2026-02-16"},
}

by_factory := object.union(by_token, {"enrolment": object.union(
	by_token.enrolment,
	{"proof": "manufacturer", "manufacturer": "Example Devices", "approved": false},
)})

renewed := object.union(by_token, {"enrolment": object.union(
	by_token.enrolment,
	{"proof": "certificate", "renewal": true},
)})

by_account := object.union(by_token, {"enrolment": object.union(
	by_token.enrolment,
	{"way": "acme", "proof": "account", "names": ["lis.hospital.example"]},
)})
