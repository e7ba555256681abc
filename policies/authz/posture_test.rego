package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

weak := "the device has a known critical vulnerability"

old := "the device's last security assessment is too long ago"

unknown := "the device's security was never assessed"

test_a_critical_vulnerability_keeps_out if {
	authz.deny == {weak} with input as example.monitor with input.device.posture.max_cvss as 9
	authz.deny == {weak} with input as example.monitor with input.device.posture.max_cvss as 10
	authz.deny == set() with input as example.monitor with input.device.posture.max_cvss as 8.9
	authz.deny == {weak} with input as example.monitor with input.device.posture.max_cvss as 7.5
		with data.posture.critical_cvss as 7
}

test_an_old_assessment_keeps_out if {
	authz.deny == {old} with input as example.monitor with input.device.posture.age_days as 731
	authz.deny == set() with input as example.monitor with input.device.posture.age_days as 730
}

test_a_missing_assessment_keeps_out_only_where_that_is_said if {
	never := object.union(example.monitor, {"device": {"posture": {"assessed": false}}})
	authz.deny == set() with input as never with data.posture.require_assessment as false
	authz.deny == {unknown} with input as never with data.posture.require_assessment as true
	authz.deny == set() with input as example.monitor with data.posture.require_assessment as true
}

test_life_critical_devices_are_not_cut_off if {
	authz.permitted with input as example.monitor
		with input.device.life_critical as true
		with input.device.posture as {"max_cvss": 10, "assessed": true, "age_days": 5000}
	authz.permitted with input as example.monitor
		with input.device.life_critical as true
		with input.device.posture as {"max_cvss": 0, "assessed": false}
		with data.posture.require_assessment as true
}
