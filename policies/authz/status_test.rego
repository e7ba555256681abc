package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

test_an_active_device_is_not_denied if {
	authz.deny == set() with input as example.monitor
}

test_status_says_why if {
	said := {"quarantined", "pending", "revoked", "retired"}
	every status, sentence in {
		"quarantined": "the device is quarantined",
		"pending": "the device is not yet in service",
		"revoked": "the device is out of service for good",
		"retired": "the device is out of service for good",
	} {
		status in said
		authz.deny == {sentence} with input as example.monitor with input.device.status as status
		not authz.permitted with input as example.monitor with input.device.status as status
	}
}

test_an_unheard_of_status_is_denied if {
	every status in ["", "Active", "broken"] {
		authz.deny == {"the device is not in service"} with input as example.monitor
			with input.device.status as status
	}
}
