package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

test_allowed_with_a_reason if {
	d := authz.decision with input as example.monitor
	d.allow == true
	count(d.reasons) == 1
	d.denials == set()
}

test_one_deny_outweighs_every_allow if {
	d := authz.decision with input as example.monitor with input.device.status as "quarantined"
	d.allow == false
	d.denials == {"the device is quarantined"}

	e := authz.decision with input as example.monitor with input.device.location as "biomed-workshop"
	e.allow == false
	count(e.reasons) == 1
	count(e.denials) == 1
}

test_nothing_known_is_denied if {
	d := authz.decision with input as {}
	d.allow == false
	d.reasons == set()
	d.denials == set()
}

test_silence_says_who_wanted_what if {
	d := authz.decision with input as object.union(example.monitor, {"request": {
		"action": "read",
		"resource": "Encounter",
		"fhir": {"interaction": "read", "type": "Encounter"},
	}})
	d.allow == false
	d.denials == {`nothing allows a device of class "patient-monitor" to do this: read Encounter`}
}

test_other_protocols_are_denied if {
	every protocol in ["hl7", "dicom", "mqtt", "tcp", ""] {
		d := authz.decision with input as example.monitor with input.request.protocol as protocol
		d.allow == false
	}
}

test_closed_denies_everything if {
	d := authz.decision with input as example.monitor with data.closed as ["the archive is being moved"]
	d.allow == false
	d.denials == {"the archive is being moved"}
}

test_standing_obligations if {
	d := authz.decision with input as example.monitor with data.obligations as [{"limit_rps": 100}]
	d.allow == true
	{"limit_rps": 100} in d.obligations
}

test_obligations_of_a_class_add_to_the_standing_ones if {
	d := authz.decision with input as example.monitor
		with data.obligations as [{"limit_rps": 100}]
		with data.classes as object.union(data.classes, {"patient-monitor": {"obligations": [{"limit_rps": 5}]}})
	d.allow == true
	{"limit_rps": 100} in d.obligations
	{"limit_rps": 5} in d.obligations
}

test_obligations_of_a_class_are_its_own if {
	d := authz.decision with input as example.monitor
		with data.classes as object.union(data.classes, {"infusion-pump": {"obligations": [{"limit_rps": 4711}]}})
		with data.obligations as []
	d.allow == true
	not {"limit_rps": 4711} in d.obligations
}

test_what_is_denied_obliges_to_nothing if {
	d := authz.decision with input as example.monitor
		with input.device.status as "quarantined"
		with data.obligations as [{"limit_rps": 100}]
	d.allow == false
	d.obligations == set()
}
