package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

maintenance := {
	"only": {"routes": ["vendor"], "classes": ["service-laptop"]},
	"windows": {
		"weekly updates": {
			"weekly": [{"days": ["saturday"], "from": "22:00", "until": "04:00"}],
			"opens": {"routes": ["vendor"]},
		},
		"a visit": {
			"once": {"from": "2026-02-16T09:00", "until": "2026-02-16T11:00"},
			"opens": {"classes": ["service-laptop"], "routes": ["vendor"]},
			"closes": {"classes": ["ventilator"]},
		},
		"the archive moves": {
			"once": {"from": "2026-02-20T22:00", "until": "2026-02-21T04:00"},
			"closes": {"routes": ["ehr"]},
		},
	},
}

moment(date, weekday, hour) := {"time": {"date": date, "weekday": weekday, "hour": hour, "minute": 0}}

during(what, time) := said if {
	said := authz.deny with input as object.union(object.union(example.monitor, what), time)
		with data.maintenance as maintenance
		with data.hours as {}
}

visit := moment("2026-02-16", "monday", 10)

after_visit := moment("2026-02-16", "monday", 11)

test_without_windows_nothing_is_closed if {
	authz.deny == set() with input as object.union(example.monitor, visit) with data.maintenance as {} with data.hours as {}
}

test_a_route_for_maintenance if {
	said := {"this route is open in a maintenance window only"}
	route := {"route": {"name": "vendor"}}
	during(route, visit) == set()
	during(route, after_visit) == said
	during(route, moment("2026-02-21", "saturday", 22)) == set()
	during(route, moment("2026-02-22", "sunday", 3)) == set()
	during(route, moment("2026-02-22", "sunday", 4)) == said
	during(route, moment("2026-02-21", "saturday", 3)) == said
	during({}, after_visit) == set()

	# What is for maintenance and has no window is closed.
	every windows in [{}, {"a": {}}, {"a": {"opens": {"routes": ["vendor"]}}}, {"a": {"once": {}, "weekly": [], "opens": {"routes": ["vendor"]}}}] {
		authz.deny == said with input as object.union(example.monitor, route)
			with data.maintenance as {"only": {"routes": ["vendor"]}, "windows": windows}
			with data.hours as {}
	}
}

test_a_class_for_maintenance if {
	said := {"devices of this class work in a maintenance window only"}
	laptop := {"device": {"class": "service-laptop"}}
	during(laptop, visit) == set()
	during(laptop, after_visit) == said
	during(laptop, moment("2026-02-21", "saturday", 22)) == said
}

test_closed_for_maintenance if {
	said := {"this route is closed for maintenance"}
	during({}, moment("2026-02-20", "friday", 22)) == said
	during({}, moment("2026-02-21", "saturday", 3)) == said
	during({}, moment("2026-02-21", "saturday", 4)) == set()
	during({}, moment("2027-02-20", "saturday", 22)) == set()
	during({"route": {"name": "pacs"}}, moment("2026-02-20", "friday", 22)) == set()
}

test_not_at_work_during_maintenance if {
	said := {"devices of this class do not work during this maintenance"}
	during({"device": {"class": "ventilator"}}, visit) == said
	during({"device": {"class": "ventilator"}}, after_visit) == set()
	during({}, visit) == set()
}
