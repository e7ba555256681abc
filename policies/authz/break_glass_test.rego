package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

emergency := {"active": true, "reason": "the EHR is down", "until": "2026-02-16T10:00:00Z"}

# A ventilator asks for what its class may not, under a grant. Not a monitor: what
# sites forbid first is that those read patients, and no test here shall fail of it.
wants(interaction, type, params) := object.union(example.monitor, {
	"device": {"class": "ventilator"},
	"break_glass": emergency,
	"request": {
		"action": interaction,
		"resource": type,
		"fhir": {"interaction": interaction, "type": type, "params": params},
	},
})

test_an_emergency_allows_what_it_is_for if {
	every type in ["AllergyIntolerance", "Condition", "MedicationAdministration", "MedicationRequest", "Observation", "Patient"] {
		authz.permitted with input as wants("read", type, [])
		authz.permitted with input as wants("search-type", type, ["patient"])
	}
	authz.permitted with input as wants("read", "Patient", []) with data.classes as {}
}

test_without_a_grant_nothing_of_it if {
	every none in [{"active": false}, {}, {"active": "true"}, object.union(emergency, {"active": false})] {
		not authz.permitted with input as object.union(
			object.remove(wants("read", "Patient", []), ["break_glass"]),
			{"break_glass": none},
		)
	}
	not authz.permitted with input as object.remove(wants("read", "Patient", []), ["break_glass"])
}

test_an_emergency_allows_nothing_else if {
	every want in [
		["create", "Patient"], ["update", "Patient"], ["delete", "Patient"], ["patch", "Observation"], ["conditional-delete", "Observation"],
		["read", "Encounter"], ["vread", "Patient"], ["history-instance", "Patient"], ["create", "MedicationRequest"], ["read", ""],
	] {
		not authz.permitted with input as wants(want[0], want[1], ["patient"])
	}
}

test_the_guards_hold_in_an_emergency if {
	generous := {"everyone": {"Patient": interactions, "Observation": interactions, "": interactions}, "lifts": ["location", "posture"]}
	every want in [
		["search-type", "Observation", []],
		["search-type", "Patient", ["name"]],
		["search-type", "Observation", ["patient", "_has"]],
		["history-type", "Observation", ["patient"]],
		["history-system", "", []],
		["search-system", "", ["patient"]],
		["conditional-delete", "Observation", ["patient"]],
	] {
		not authz.permitted with input as wants(want[0], want[1], want[2]) with data.break_glass as generous
	}
	every name in data.fhir.never_operations {
		not authz.permitted with data.break_glass as generous
			with input as object.union(wants("operation", "Patient", []), {"request": {"fhir": {"operation": name}}})
	}
	not authz.permitted with input as wants("read", "Patient", []) with data.closed as ["the archive is being moved"]
}

test_an_emergency_is_for_devices_in_service if {
	every status in ["pending", "quarantined", "revoked", "retired", ""] {
		not authz.permitted with input as object.union(wants("read", "Patient", []), {"device": {"status": status}})
		not authz.permitted with input as object.union(wants("create", "Observation", []), {"device": {"status": status}})
	}
}

medication(class) := object.union(wants("read", "Medication", []), {"device": {"class": class}})

test_a_class_gets_what_it_needs_more if {
	authz.permitted with input as medication("infusion-pump")
	not authz.permitted with input as medication("glucose-meter")
	not authz.permitted with input as object.union(medication("infusion-pump"), {"break_glass": {"active": false}})
		with data.classes as {}
}

report(query) := object.union(example.store, {
	"break_glass": emergency,
	"device": {"class": "infusion-pump"},
	"request": {"http": {"method": "GET", "path": ["reports"], "query": query}},
})

test_a_scanner_fetches_a_study_by_name if {
	study := object.union(example.store, {
		"break_glass": emergency,
		"request": {"http": {"method": "GET", "path": ["dicom-web", "studies", "1.2.3"]}},
	})
	authz.permitted with input as study
	not authz.permitted with input as object.union(study, {"break_glass": {"active": false}})
	not authz.permitted with input as object.union(study, {"request": {"http": {"path": ["dicom-web", "studies"]}}})
	not authz.permitted with input as object.union(study, {"request": {"http": {"method": "DELETE"}}})
}

test_a_web_service_by_name_only if {
	asks := {"infusion-pump": {"http": [{"methods": ["GET"], "path": ["reports"], "query_any": ["PatientID"]}]}}
	authz.permitted with input as report({"PatientID": ["77"]}) with data.break_glass.classes as asks
	not authz.permitted with input as report({"PatientID": ["*"]}) with data.break_glass.classes as asks
	not authz.permitted with input as report({}) with data.break_glass.classes as asks
	not authz.permitted with data.break_glass.classes as asks
		with input as object.union(report({"PatientID": ["77"]}), {"break_glass": {"active": false}})
	not authz.permitted with data.break_glass.classes as asks
		with input as object.union(report({"PatientID": ["77"]}), {"request": {"http": {"method": "DELETE"}}})
	not authz.permitted with data.break_glass.classes as asks
		with input as object.union(report({"PatientID": ["77"]}), {"request": {"http": {"path": ["others"]}}})
}

test_posture_and_location_give_way if {
	weak := object.union(wants("read", "Patient", []), {"device": {"posture": {"max_cvss": 9.8, "age_days": 4000, "assessed": false}}})
	away := object.union(wants("read", "Patient", []), {"device": {"location": "biomed-workshop"}})
	authz.permitted with input as weak with data.posture.require_assessment as true
	authz.permitted with input as away
	every asked in [weak, away] {
		every none in [[], ["closed", "status"]] {
			not authz.permitted with input as asked with data.break_glass.lifts as none
		}
	}
	not authz.permitted with input as weak with data.break_glass.lifts as ["location"]
	not authz.permitted with input as away with data.break_glass.lifts as ["posture"]
	closed := object.union(example.monitor, {"device": {"posture": {"max_cvss": 9.8}}})
	not authz.permitted with input as closed
}

test_hours_give_way if {
	closed := {"classes": {"ventilator": []}, "locations": {"icu-2": []}, "routes": {"ehr": []}}
	authz.permitted with input as wants("read", "Patient", []) with data.hours as closed
	not authz.permitted with input as wants("read", "Patient", []) with data.hours as closed with data.break_glass.lifts as []
}

about_another(interaction) := object.union(wants(interaction, "Observation", ["patient"]), {
	"device": {"patients": ["Patient/1"]},
	"request": {"fhir": {"patients": ["Patient/2"]}},
})

test_another_patient_may_be_read_of_and_not_written_of if {
	bound := {"ventilator": {"fhir": {
		"types": {"Observation": ["create", "read", "update"]},
		"compartment": {"held": ["read", "search", "write"]},
	}}}
	every interaction in ["read", "search-type"] {
		authz.permitted with input as about_another(interaction) with data.classes as bound
		not authz.permitted with input as about_another(interaction) with data.classes as bound with data.break_glass.lifts as []
	}
	every interaction in ["create", "update"] {
		not authz.permitted with input as about_another(interaction) with data.classes as bound
	}

	# Who is meant has to be named all the same.
	not authz.permitted with data.classes as bound
		with input as object.union(about_another("read"), {"request": {"fhir": {"patients": [""]}}})
}
