package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

foreign := "this is about a patient with whom the device is not associated"

unclear := "it can not be told which patient this is about"

held(kinds) := {"patient-monitor": {"fhir": {
	"types": boundless["patient-monitor"].fhir.types,
	"operations": boundless["patient-monitor"].fhir.operations,
	"system": ["batch", "transaction", "capabilities"],
	"compartment": {"held": kinds},
}}}

# What is said to a monitor that is associated with patients 1 and HOSP|7.
bedside(kinds, fhir) := said if {
	said := authz.deny with input as asks(fhir)
		with input.device.patients as ["1", "HOSP|7"]
		with data.classes as held(kinds)
}

writes := {
	"create", "update", "patch", "delete",
	"conditional-create", "conditional-update", "conditional-patch",
}

test_a_write_names_its_patient if {
	every interaction in writes {
		bedside(["write"], {"interaction": interaction, "patients": ["1"]}) == set()
		bedside(["write"], {"interaction": interaction, "patients": ["HOSP|7"]}) == set()
		bedside(["write"], {"interaction": interaction, "patients": ["1", "HOSP|7"]}) == set()
		bedside(["write"], {"interaction": interaction, "patients": ["2"]}) == {foreign}
		bedside(["write"], {"interaction": interaction, "patients": ["1", "2"]}) == {foreign}
		bedside(["write"], {"interaction": interaction, "patients": []}) == {unclear}
		bedside(["write"], {"interaction": interaction, "patients": [""]}) == {unclear}
		bedside(["write"], {"interaction": interaction, "patients": ["", "1"]}) == {unclear}
		bedside(["write"], {"interaction": interaction, "patients": ["", "2"]}) == {foreign, unclear}
	}
}

# Names that look like its patient's and are not.
test_nearly_its_patient if {
	every name in ["12", "11", "01", " 1", "1 ", "Patient/1", "http://evil.example/Patient/1", "HOSP|70", "HOSP|", "|7", "EVIL|7", "hosp|7", "7"] {
		bedside(["write"], {"patients": [name]}) == {foreign}
	}
}

test_a_device_at_nobodys_bedside if {
	said := authz.deny with input as asks({"patients": ["1"]})
		with input.device.patients as []
		with data.classes as held(["write"])
	said == {foreign}

	# A fact that is not there allows nothing either.
	unknown := object.remove(example.monitor.device, ["patients"])
	authz.deny == {foreign} with input as object.union(object.remove(asks({"patients": ["1"]}), ["device"]), {"device": unknown})
		with data.classes as held(["write"])
	lacking := object.remove(asks({}).request.fhir, ["patients"])
	authz.deny == {unclear} with input as asks({})
		with input.request.fhir as lacking
		with data.classes as held(["write"])
}

test_what_is_about_nobody if {
	every type in ["Device", "DeviceMetric"] {
		bedside(["write"], {"type": type, "interaction": "create", "patients": []}) == set()
		bedside(["write"], {"type": type, "interaction": "create", "patients": ["2"]}) == {foreign}
		bedside(["write"], {"type": type, "interaction": "create", "patients": [""]}) == {unclear}
	}
}

test_only_what_is_held if {
	bedside(["write"], {"interaction": "read", "patients": []}) == set()
	bedside(["write"], {"interaction": "search-type", "params": ["patient"], "patients": ["2"]}) == set()
	bedside(["search"], {"interaction": "create", "patients": ["2"]}) == set()
	bedside([], {"interaction": "create", "patients": ["2"]}) == set()
	every interaction in ["capabilities", "batch", "transaction"] {
		bedside(["write", "read", "search"], {"interaction": interaction, "type": "", "patients": ["2"]}) == set()
	}
}

test_searches_and_reads if {
	bedside(["search"], {"interaction": "search-type", "params": ["patient"], "patients": ["1"]}) == set()
	bedside(["search"], {"interaction": "search-type", "params": ["patient"], "patients": ["1", "2"]}) == {foreign}
	bedside(["search"], {"interaction": "search-type", "params": ["patient"], "patients": []}) == {unclear}
	bedside(["search"], {"interaction": "search-compartment", "params": ["patient"], "patients": ["2"]}) == {foreign}
	bedside(["read"], {"interaction": "read", "type": "Encounter", "id": "1", "patients": ["1"]}) == set()
	bedside(["read"], {"interaction": "read", "type": "Encounter", "id": "2", "patients": ["2"]}) == {foreign}
	bedside(["read"], {"interaction": "vread", "type": "Observation", "id": "1", "patients": []}) == {unclear}
}

test_operations_are_of_every_kind if {
	every kind in ["write", "read", "search"] {
		bedside([kind], {"interaction": "operation", "operation": "$lastn", "patients": ["1"]}) == set()
		bedside([kind], {"interaction": "operation", "operation": "$lastn", "patients": ["2"]}) == {foreign}
		bedside([kind], {"interaction": "operation", "operation": "$lastn", "patients": []}) == {unclear}
	}
}

test_alarms_may_be_excepted if {
	classes := object.union(held(["write"]), {"patient-monitor": {"fhir": {"compartment": {"except": ["Communication"]}}}})
	authz.deny == set() with input as asks({"type": "Communication", "patients": ["2"]})
		with data.classes as classes
	authz.deny == set() with input as asks({"type": "Communication", "patients": [""]})
		with data.classes as classes
	authz.deny == {foreign} with input as asks({"type": "Observation", "patients": ["2"]})
		with data.classes as classes
}

test_other_classes_are_not_held if {
	authz.deny == set() with input as asks({"patients": ["2"]}) with data.classes as boundless
	authz.deny == set() with input as object.union(asks({"patients": ["2"]}), {"device": {"class": "ventilator"}})
		with data.classes as object.union(held(["write"]), {"ventilator": {"fhir": {"types": {"Observation": ["create"]}}}})
}

test_other_protocols_are_no_matter_of_this if {
	authz.deny == set() with input as object.union(example.store, {"device": {"class": "patient-monitor"}})
		with data.classes as held(["write"])
}
