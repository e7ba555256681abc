package anteroom.enrolment_test

import data.anteroom.enrolment

test_the_shipped_limits_deny_nothing_ordinary if {
	enrolment.deny == set() with input as by_token
	enrolment.deny == set() with input as renewed
}

test_a_way_can_be_closed if {
	enrolment.deny == {`enrolment by way of "est" is closed here`} with input as by_token
		with data.enrolment.ways as ["cli"]
}

test_an_attended_class_is_enrolled_by_an_operator_only if {
	said := {`devices of class "infusion-pump" are enrolled by an operator only`}
	enrolment.deny == said with input as by_token with data.enrolment.attended_classes as ["infusion-pump"]
	enrolment.deny == set() with input as by_token with data.enrolment.attended_classes as ["ventilator"]
	enrolment.deny == set() with input as renewed with data.enrolment.attended_classes as ["infusion-pump"]
	enrolment.deny == set() with input as by_token
		with input.enrolment.proof as "operator"
		with data.enrolment.attended_classes as ["infusion-pump"]
}

test_devices_enrol_from_their_networks_only if {
	said := {"devices do not enrol from this network"}
	enrolment.deny == said with input as by_token with data.enrolment.networks as ["10.21.0.0/16", "fd00::/8"]
	enrolment.deny == set() with input as by_token with data.enrolment.networks as ["10.21.0.0/16", "10.20.0.0/16"]
	enrolment.deny == said with input as by_token
		with input.enrolment.remote_ip as ""
		with data.enrolment.networks as ["10.20.0.0/16"]
}

test_an_operator_is_in_no_network if {
	enrolment.deny == set() with input as by_token
		with input.enrolment.proof as "operator"
		with input.enrolment.remote_ip as ""
		with data.enrolment.networks as ["10.21.0.0/16"]
}

test_rsa_keys_can_be_asked_to_be_longer if {
	rsa := object.union(by_token, {"enrolment": object.union(
		by_token.enrolment,
		{"csr": object.union(by_token.enrolment.csr, {"key": {"type": "rsa", "bits": 2048, "again": false}})},
	)})
	enrolment.deny == set() with input as rsa
	enrolment.deny == {"an RSA key must have at least 3072 bits here"} with input as rsa
		with data.enrolment.min_rsa_bits as 3072
}
