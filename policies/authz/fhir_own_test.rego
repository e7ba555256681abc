package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

not_own := "a device may change only its own device record"

updates(id) := object.union(example.monitor, {"request": {"fhir": {
	"interaction": "update",
	"type": "Device",
	"id": id,
}}})

test_its_own_by_id if {
	authz.permitted with input as updates("monitor-0007")
}

test_its_own_by_tag if {
	authz.permitted with input as updates("4711") with input.device.tags as {"fhir-device": "4711"}
}

test_no_other if {
	authz.deny == {not_own} with input as updates("monitor-0008")
	authz.deny == {not_own} with input as updates("")
	authz.deny == {not_own} with input as updates("") with input.device.tags as {"fhir-device": ""}
	authz.deny == {not_own} with input as updates("x") with input.request.fhir.interaction as "patch"
}

test_reading_and_creating_are_another_matter if {
	authz.permitted with input as updates("monitor-0008") with input.request.fhir.interaction as "read"
	authz.permitted with input as updates("")
		with input.device.class as "wearable-gateway"
		with input.request.fhir.interaction as "create"
}
