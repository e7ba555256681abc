package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

does(class, interaction, type) := object.union(example.monitor, {
	"device": {"class": class},
	"request": {"fhir": {"interaction": interaction, "type": type, "params": ["patient"]}},
})

test_classes_do_what_they_are_for if {
	every want in [
		["patient-monitor", "create", "Observation"],
		["patient-monitor", "create", "DetectedIssue"],
		["infusion-pump", "read", "MedicationRequest"],
		["infusion-pump", "search-type", "MedicationRequest"],
		["infusion-pump", "create", "MedicationAdministration"],
		["ventilator", "create", "Observation"],
		["ct-scanner", "create", "ImagingStudy"],
		["ct-scanner", "search-type", "ServiceRequest"],
		["glucose-meter", "conditional-create", "Observation"],
		["wearable-gateway", "create", "Observation"],
		["wearable-gateway", "batch", ""],
		["patient-monitor", "transaction", ""],
		["glucose-meter", "capabilities", ""],
	] {
		authz.permitted with input as does(want[0], want[1], want[2])
	}
}

test_and_nothing_else if {
	every want in [
		["patient-monitor", "read", "Patient"],
		["patient-monitor", "search-type", "Observation"],
		["patient-monitor", "update", "Observation"],
		["patient-monitor", "delete", "Observation"],
		["patient-monitor", "create", "MedicationRequest"],
		["patient-monitor", "create", ""],
		["infusion-pump", "create", "MedicationRequest"],
		["infusion-pump", "read", "Patient"],
		["glucose-meter", "batch", ""],
		["glucose-meter", "transaction", ""],
		["wearable-gateway", "transaction", ""],
		["toaster", "create", "Observation"],
		["", "create", "Observation"],
		["patient-monitor", "operation", "Observation"],
		["patient-monitor", "", "Observation"],
	] {
		not authz.permitted with input as does(want[0], want[1], want[2])
	}
}

test_no_class_may_touch_the_patient_itself if {
	some class, _ in data.classes
	every interaction in interactions {
		not authz.permitted with input as does(class, interaction, "Patient")
	}
}

test_only_an_active_device if {
	authz.allow == set() with input as example.monitor with input.device.status as "quarantined"
}

test_only_in_fhir if {
	authz.allow == set() with input as example.monitor with input.request.protocol as "http"
}

test_an_operation_must_be_listed_with_its_type if {
	lastn := object.union(example.monitor, {"request": {"fhir": {
		"interaction": "operation",
		"operation": "$lastn",
	}}})
	not authz.permitted with input as lastn
	authz.permitted with input as lastn
		with data.classes["patient-monitor"].fhir.operations as {"$lastn": ["Observation"]}
	not authz.permitted with input as lastn
		with data.classes["patient-monitor"].fhir.operations as {"$lastn": ["Flag"]}
	not authz.permitted with input as lastn
		with data.classes["patient-monitor"].fhir.operations as {"$stats": ["Observation"]}
}
