package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

# A class that may do everything, so that only the guards stand in the way.
boundless := {"patient-monitor": {"fhir": {
	"system": interactions,
	"types": {"Observation": interactions, "Patient": interactions, "Device": interactions},
	"operations": {"$everything": ["Patient", ""], "$export": ["Patient", ""], "$graphql": [""], "$lastn": ["Observation"]},
}}}

interactions := [
	"read", "vread", "update", "patch", "delete", "history-instance", "history-type", "history-system", "create",
	"search-type", "search-system", "search-compartment", "capabilities", "operation", "batch", "transaction",
	"conditional-create", "conditional-update", "conditional-patch", "conditional-delete",
]

asks(fhir) := object.union(example.monitor, {"request": {"fhir": fhir}})

guarded(fhir) := said if said := authz.deny with input as asks(fhir) with data.classes as boundless

test_boundless_is_boundless if {
	authz.permitted with data.classes as boundless with input as asks({"interaction": "update"})
	guarded({"interaction": "operation", "operation": "$lastn"}) == set()
}

test_no_bulk_operations if {
	every name in data.fhir.never_operations {
		every type in ["Encounter", ""] {
			guarded({"interaction": "operation", "operation": name, "type": type}) == {"whole records, exports and server maintenance are not for devices"}
		}
	}
	{"$everything", "$export", "$graphql", "$expunge"} & {name | some name in data.fhir.never_operations} == {"$everything", "$export", "$graphql", "$expunge"}
}

test_no_history_of_all if {
	every interaction in ["history-system", "history-type"] {
		guarded({"interaction": interaction}) == {"the history of all records is not for devices"}
	}
	guarded({"interaction": "history-instance"}) == set()
}

test_no_search_of_all if {
	guarded({"interaction": "search-system", "type": "", "params": ["patient"]}) == {"a search over the whole server is not for devices"}
}

test_no_conditional_delete if {
	said := {"deleting what a search finds is not for devices"}
	guarded({"interaction": "conditional-delete", "conditional": true}) == said
	guarded({"interaction": "delete", "conditional": true}) == said
	guarded({"interaction": "delete", "conditional": false}) == set()
}
