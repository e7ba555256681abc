package anteroom.lib.clock_test

import data.anteroom.lib.clock

at(weekday, hour, minute) := {"weekday": weekday, "hour": hour, "minute": minute, "date": "2026-02-16"}

test_within_a_day if {
	window := {"days": ["monday", "tuesday"], "from": "07:30", "until": "19:00"}
	every t in [["monday", 7, 30], ["monday", 18, 59], ["tuesday", 12, 0]] {
		clock.within(window) with input.time as at(t[0], t[1], t[2])
	}
	every t in [["monday", 7, 29], ["monday", 19, 0], ["monday", 0, 0], ["sunday", 12, 0], ["wednesday", 7, 30]] {
		not clock.within(window) with input.time as at(t[0], t[1], t[2])
	}
}

test_into_the_next_day if {
	window := {"days": ["friday"], "from": "22:00", "until": "06:00"}
	every t in [["friday", 22, 0], ["friday", 23, 59], ["saturday", 0, 0], ["saturday", 5, 59]] {
		clock.within(window) with input.time as at(t[0], t[1], t[2])
	}
	every t in [["friday", 21, 59], ["friday", 0, 0], ["friday", 5, 59], ["saturday", 6, 0], ["saturday", 22, 0], ["sunday", 3, 0]] {
		not clock.within(window) with input.time as at(t[0], t[1], t[2])
	}
}

test_every_day_and_all_day if {
	every day, _ in clock.before {
		clock.within({"from": "22:00", "until": "06:00"}) with input.time as at(day, 3, 0)
		clock.within({"from": "00:00", "until": "24:00"}) with input.time as at(day, 23, 59)
		clock.within({"from": "00:00", "until": "24:00"}) with input.time as at(day, 0, 0)
	}
}

test_each_day_has_one_before if {
	count({before | some before in clock.before}) == 7
}

test_what_says_nothing_is_never if {
	every window in [{}, {"from": "00:00"}, {"until": "24:00"}, {"from": "08:00", "until": "08:00"}, {"days": [], "from": "00:00", "until": "24:00"}] {
		not clock.within(window) with input.time as at("monday", 8, 0)
	}
	not clock.within({"from": "00:00", "until": "24:00"}) with input as {}
}

test_between_moments if {
	window := {"from": "2026-02-16T22:00", "until": "2026-02-17T04:00"}
	clock.between(window) with input.time as at("monday", 22, 0)
	clock.between(window) with input.time as object.union(at("tuesday", 3, 59), {"date": "2026-02-17"})
	not clock.between(window) with input.time as at("monday", 21, 59)
	not clock.between(window) with input.time as object.union(at("tuesday", 4, 0), {"date": "2026-02-17"})
	not clock.between(window) with input.time as object.union(at("monday", 23, 0), {"date": "2025-02-16"})
	not clock.between({}) with input.time as at("monday", 23, 0)
}
