package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

requests(method, path, query) := object.union(example.store, {"request": {"http": {
	"method": method,
	"path": path,
	"query": query,
}}})

test_a_scanner_stores if {
	authz.permitted with input as example.store
	authz.permitted with input as requests("POST", ["dicom-web", "studies", "1.2.3"], {})
}

test_a_scanner_finds_by_name if {
	authz.permitted with input as requests("GET", ["dicom-web", "studies"], {"StudyInstanceUID": ["1.2.3"]})
	authz.permitted with input as requests("GET", ["dicom-web", "studies"], {"PatientID": ["77"], "limit": ["5"]})
	authz.permitted with input as requests("GET", ["dicom-web", "studies", "1.2.3", "series"], {})
}

test_a_scanner_does_not_list_everybody if {
	every query in [
		{}, {"limit": ["5"]}, {"PatientID": [""]}, {"PatientID": ["*"]}, {"PatientID": ["7?"]},
		{"PatientID": []}, {"PatientID": ["7", "*"]}, {"PatientName": ["A"]},
	] {
		not authz.permitted with input as requests("GET", ["dicom-web", "studies"], query)
	}
}

test_a_scanner_does_no_more if {
	every want in [
		["DELETE", ["dicom-web", "studies", "1.2.3"]],
		["GET", ["dicom-web", "studies", "1.2.3"]],
		["PUT", ["dicom-web", "studies"]],
		["POST", ["dicom-web"]],
		["POST", ["studies"]],
		["POST", ["dicom-web", "studies", ""]],
		["POST", []],
	] {
		not authz.permitted with input as requests(want[0], want[1], {})
	}
}

test_other_classes_do_not if {
	every class in ["patient-monitor", "infusion-pump", "ventilator", "glucose-meter", "wearable-gateway", ""] {
		not authz.permitted with input as example.store with input.device.class as class
	}
}

test_web_services_are_not_fhir if {
	by_http := "its class may use this web service this way"
	by_http in authz.allow with input as example.store
	not by_http in authz.allow with input as example.store with input.request.protocol as "fhir"
	not authz.permitted with input as example.store with input.device.status as "pending"
}

test_a_rule_that_names_no_parameter_holds_for_any_query if {
	open := {"ct-scanner": {"http": [{"methods": ["GET"], "path": ["reports"], "query_any": []}]}}
	every query in [{}, {"name": ["*"]}] {
		authz.permitted with input as requests("GET", ["reports"], query) with data.classes as open
		not authz.permitted with input as requests("GET", ["others"], query) with data.classes as open
	}
}
