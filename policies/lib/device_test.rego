package anteroom.lib.device_test

import data.anteroom.lib.device

test_an_active_device_is_active if {
	device.active with input as {"device": {"status": "active"}}
}

test_any_other_status_is_not if {
	every status in ["pending", "quarantined", "revoked", "retired", "Active", ""] {
		not device.active with input as {"device": {"status": status}}
	}
}

test_an_unknown_status_is_not_active if {
	not device.active with input as {"device": {}}
	not device.active with input as {}
}

test_expendable if {
	device.expendable with input as {"device": {"life_critical": false}}
	not device.expendable with input as {"device": {"life_critical": true}}
	not device.expendable with input as {"device": {}}
}
