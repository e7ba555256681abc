package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

at_time(weekday, hour) := object.union(example.monitor, {"time": {"weekday": weekday, "hour": hour, "minute": 0}})

office := [{"days": ["monday", "tuesday"], "from": "08:00", "until": "17:00"}, {"days": ["monday"], "from": "20:00", "until": "02:00"}]

test_without_hours_it_is_any_time if {
	every hour in numbers.range(0, 23) {
		authz.deny == set() with input as at_time("sunday", hour) with data.hours as {}
	}
}

test_hours_of_a_class if {
	said := {"devices of this class do not work at this time"}
	hours := {"classes": {"patient-monitor": office}}
	every t in [["monday", 8], ["tuesday", 16], ["monday", 21], ["tuesday", 1]] {
		authz.deny == set() with input as at_time(t[0], t[1]) with data.hours as hours
	}
	every t in [["monday", 7], ["monday", 18], ["tuesday", 2], ["tuesday", 21], ["sunday", 12], ["monday", 1]] {
		authz.deny == said with input as at_time(t[0], t[1]) with data.hours as hours
	}
	authz.deny == set() with input as object.union(at_time("sunday", 12), {"device": {"class": "ventilator"}}) with data.hours as hours
	authz.deny == said with input as at_time("monday", 12) with data.hours as {"classes": {"patient-monitor": []}}
	authz.deny == said with input as object.remove(at_time("monday", 12), ["time"]) with data.hours as hours
}

test_hours_of_a_place if {
	said := {"no device works at this place at this time"}
	hours := {"locations": {"icu-2": office}}
	authz.deny == set() with input as at_time("monday", 12) with data.hours as hours
	authz.deny == said with input as at_time("monday", 18) with data.hours as hours
	authz.deny == set() with input as object.union(at_time("monday", 18), {"device": {"location": "icu-3"}}) with data.hours as hours
}

test_hours_of_a_route if {
	said := {"this route is closed at this time"}
	hours := {"routes": {"ehr": office}}
	authz.deny == set() with input as at_time("monday", 12) with data.hours as hours
	authz.deny == said with input as at_time("monday", 18) with data.hours as hours
	authz.deny == set() with input as object.union(at_time("monday", 18), {"route": {"name": "pacs"}}) with data.hours as hours
}

test_each_of_them_counts if {
	hours := {"classes": {"patient-monitor": office}, "locations": {"icu-2": office}, "routes": {"ehr": office}}
	count(authz.deny) == 3 with input as at_time("sunday", 12) with data.hours as hours
}

test_no_life_hangs_on_hours if {
	hours := {"classes": {"patient-monitor": []}, "locations": {"icu-2": []}, "routes": {"ehr": []}}
	authz.deny == set() with input as object.union(at_time("sunday", 12), {"device": {"life_critical": true}}) with data.hours as hours
	authz.deny == set() with input as object.union(at_time("sunday", 12), {"route": {"quarantine_lane": true}}) with data.hours as hours
}
