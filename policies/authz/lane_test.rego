package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

# The pump is quarantined and fetches an update.
update := object.union(example.pump, {
	"device": {"status": "quarantined"},
	"request": {
		"protocol": "http",
		"action": "GET",
		"resource": "",
		"http": {"method": "GET", "path": ["updates", "pump", "4.3.0.bin"], "content_type": ""},
	},
	"route": {"name": "updates", "backend": "updates", "environment": "maintenance", "quarantine_lane": true},
})

test_a_quarantined_device_fetches_its_update if {
	authz.permitted with input as update
	authz.permitted with input as update with input.request.http.method as "HEAD"
	authz.permitted with input as update with input.device.status as "active"
}

test_a_quarantined_device_only_fetches if {
	every method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
		not authz.permitted with input as update with input.request.http.method as method
	}
	every segments in [[], ["update"], ["admin"], ["fhir", "updates"]] {
		not authz.permitted with input as update with input.request.http.path as segments
	}
	not authz.permitted with input as update with input.device.class as "unheard-of"
	not authz.permitted with input as update with data.classes as {"infusion-pump": {}}
}

test_the_lane_is_the_only_way if {
	every elsewhere in [false, null] {
		authz.deny == {"the device is quarantined"} with input as update with input.route.quarantine_lane as elsewhere
		not authz.permitted with input as update with input.route.quarantine_lane as elsewhere
	}
	authz.deny == {"the device is quarantined"} with input as object.remove(update, ["route"])

	# In the lane, too, a class does only what its lane says.
	not authz.permitted with input as object.union(example.monitor, {
		"device": {"status": "quarantined"},
		"route": {"quarantine_lane": true},
	})
}

test_the_lane_is_for_quarantine_only if {
	every status in ["revoked", "retired", "pending", "", "Quarantined"] {
		not authz.permitted with input as update with input.device.status as status
		authz.deny != set() with input as update with input.device.status as status
	}
}

test_what_an_update_cures_does_not_bar_it if {
	ill := {"max_cvss": 9.8, "assessed": true, "assessed_at": "2020-01-01T00:00:00Z", "age_days": 2000}
	authz.permitted with input as update with input.device.posture as ill
	authz.permitted with input as update with input.device.posture as {"max_cvss": 9.8, "assessed": false}
		with data.posture.require_assessment as true
	not authz.permitted with input as update
		with input.device.posture as ill
		with input.device.status as "active"
		with input.route.quarantine_lane as false
}
