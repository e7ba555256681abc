package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

elsewhere := "from where the device stands it may not use this route"

test_a_place_that_is_not_listed_restricts_nothing if {
	authz.deny == set() with input as example.monitor with input.device.location as "icu-2"
	authz.deny == set() with input as example.monitor with input.device.location as ""
}

test_a_listed_place_opens_what_it_lists if {
	authz.deny == {elsewhere} with input as example.monitor with input.device.location as "biomed-workshop"
	authz.deny == set() with input as example.monitor
		with input.device.location as "biomed-workshop"
		with input.route.environment as "test"
	authz.deny == {elsewhere} with input as example.monitor
		with data.locations as {"icu-2": {"environments": []}}
}

test_a_place_that_lists_nothing_opens_nothing if {
	authz.deny == {elsewhere} with input as example.monitor with data.locations as {"icu-2": {}}
}

test_no_route_opens_nothing if {
	nowhere := object.remove(example.monitor, ["route"])
	authz.deny == {elsewhere} with input as nowhere with input.device.location as "storage"
}
