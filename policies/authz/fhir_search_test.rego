package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

test_unknown_parameters_are_refused if {
	said := {"the search uses a parameter that is not known to be harmless"}
	every name in ["_filter", "_query", "_list", "_has", "_type", "_contained", "_text", "_content", "_", "_new"] {
		guarded({"interaction": "search-type", "params": ["patient", name]}) == said
		guarded({"interaction": "search-type", "params": ["patient"], "result_params": [name]}) == said
	}
	every name in data.fhir.harmless_parameters {
		guarded({"interaction": "search-type", "params": ["patient"], "result_params": [name]}) == set()
	}
}

test_modifiers_that_widen_are_refused if {
	said := {"the search turns a parameter round or widens it"}
	every name in ["patient:not", "patient:missing", "patient:in", "_id:not", "code:below", "_include:iterate", "status:NOT", "x"] {
		authz.deny == said with input as example.orders with input.request.fhir.modifiers as [name]
		authz.deny == said with input as example.orders with input.request.fhir.modifiers as ["patient:Patient", name]
	}
	every name in ["patient:Patient", "code:exact", "patient:identifier", "subject:Patient.name:exact"] {
		authz.permitted with input as example.orders with input.request.fhir.modifiers as [name]
	}
}

test_parameters_that_are_no_searches if {
	guarded({"interaction": "capabilities", "result_params": ["mode"]}) == set()
	guarded({"interaction": "history-instance", "result_params": ["_since", "_at"]}) == set()
	guarded({"interaction": "history-instance", "result_params": ["_list"]}) != set()
}

test_includes_only_as_the_class_lists if {
	said := {"the search brings along records that its class may not have"}
	authz.deny == said with input as example.orders with input.request.fhir.includes as ["MedicationRequest:subject"]
	authz.deny == said with input as example.orders with input.request.fhir.includes as ["_revinclude:Provenance:target"]
	authz.deny == said with input as example.orders with input.request.fhir.includes as ["*"]
	authz.deny == said with input as example.orders
		with input.request.fhir.includes as ["MedicationRequest:medication", "MedicationRequest:subject"]
	authz.permitted with input as example.orders with input.request.fhir.includes as ["MedicationRequest:medication"]
	guarded({"interaction": "search-type", "params": ["patient"], "includes": ["Observation:subject"]}) == said
}

test_chains_only_as_the_class_lists if {
	said := {"the search goes by way of other records, which its class may not do"}
	authz.deny == said with input as example.orders with input.request.fhir.chains as ["subject.name"]
	authz.permitted with input as example.orders
		with input.request.fhir.chains as ["subject.name"]
		with data.classes["infusion-pump"].fhir.chains as ["subject.name"]
}

test_a_search_names_a_patient if {
	said := {"a search for patients' records must say for which patient"}
	authz.permitted with input as example.orders
	authz.deny == said with input as example.orders with input.request.fhir.params as []
	authz.deny == said with input as example.orders with input.request.fhir.params as ["status"]
	guarded({"interaction": "search-type", "type": "Device"}) == set()
}

test_missing_lists_deny if {
	fhir := {"never_operations": []}
	authz.deny == {"a search for patients' records must say for which patient"} with input as example.orders with data.fhir as fhir
	count(authz.deny) == 2 with input as example.orders with data.fhir as fhir
		with input.request.fhir.result_params as ["_count"]
}
