package anteroom.enrolment_test

import data.anteroom.enrolment

test_a_token_enrols if {
	enrolment.decision == {
		"allow": true,
		"reasons": {"the device shows a one-time token that was made for it"},
		"denials": set(),
	} with input as by_token
}

test_an_operator_enrols if {
	enrolment.decision.allow with input as by_token
		with input.enrolment.proof as "operator"
		with input.enrolment.way as "cli"
}

test_a_certificate_renews_and_does_not_enrol if {
	enrolment.decision.allow with input as renewed
	not enrolment.decision.allow with input as renewed with input.enrolment.renewal as false
}

test_an_expired_certificate_renews_and_does_not_enrol if {
	late := object.union(renewed, {"enrolment": object.union(
		renewed.enrolment,
		{"proof": "expired-certificate"},
	)})
	enrolment.decision.allow with input as late
	not enrolment.decision.allow with input as late with input.enrolment.renewal as false
}

test_a_device_of_a_manufacturer_waits_for_approval if {
	not enrolment.decision.allow with input as by_factory
	enrolment.decision == {
		"allow": true,
		"reasons": {"its manufacturer vouches for the device, and an operator approved it"},
		"denials": set(),
	} with input as by_factory with input.enrolment.approved as true
}

test_approval_is_no_proof if {
	not enrolment.decision.allow with input as by_token with input.enrolment.proof as "none"
}

test_a_class_can_be_spared_the_approval if {
	enrolment.decision == {
		"allow": true,
		"reasons": {`its manufacturer vouches for the device, and class "infusion-pump" needs no approval here`},
		"denials": set(),
	} with input as by_factory with data.enrolment.automatic_classes as ["infusion-pump"]
	not enrolment.decision.allow with input as by_factory with data.enrolment.automatic_classes as ["ventilator"]
	not enrolment.decision.allow with input as by_token
		with input.enrolment.proof as "none"
		with data.enrolment.automatic_classes as ["infusion-pump"]
}

test_nothing_is_no_proof if {
	enrolment.decision == {
		"allow": false,
		"reasons": set(),
		"denials": {`nothing allows a device to be enrolled by way of "est" with the proof "none"`},
	} with input as by_token with input.enrolment.proof as "none"
}

test_a_reason_to_deny_outweighs if {
	enrolment.decision == {
		"allow": false,
		"reasons": {"the device shows a one-time token that was made for it"},
		"denials": {`enrolment by way of "fax" is closed here`},
	} with input as by_token with input.enrolment.way as "fax"
}

test_a_server_enrols_with_names_only if {
	enrolment.decision == {
		"allow": true,
		"reasons": {"the server answers to the names it may have"},
		"denials": set(),
	} with input as by_account
	not enrolment.decision.allow with input as by_account with input.enrolment.names as []
}

test_an_attested_key_enrols if {
	enrolment.decision.allow with input as by_account
		with input.enrolment.proof as "attestation"
		with input.enrolment.names as []
}
