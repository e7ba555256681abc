# METADATA
# title: The time of day and the calendar
# description: |
#   As input.time has them: the facility's own, in whole minutes. No rule reads a
#   clock, so that decisions can be remembered.
package anteroom.lib.clock

# METADATA
# title: The time of day
# description: As "07:05". Two of these compare as the times do.
now := sprintf("%02d:%02d", [input.time.hour, input.time.minute])

# METADATA
# title: The moment
# description: As "2026-02-16T07:05".
moment := concat("T", [input.time.date, now])

# METADATA
# title: Whether it is now within daily hours
# description: |
#   within({"days": ["monday"], "from": "22:00", "until": "06:00"}) holds on Monday
#   from ten at night, and on until six on Tuesday. Without days it is every day;
#   what lacks from or until is never.
within(window) if {
	window.from < window.until
	window.from <= now
	now < window.until
	on(window, input.time.weekday)
}

within(window) if {
	window.from > window.until
	window.from <= now
	on(window, input.time.weekday)
}

within(window) if {
	window.from > window.until
	now < window.until
	on(window, before[input.time.weekday])
}

on(window, _) if not window.days

on(window, day) if day in window.days

before := {
	"monday": "sunday",
	"tuesday": "monday",
	"wednesday": "tuesday",
	"thursday": "wednesday",
	"friday": "thursday",
	"saturday": "friday",
	"sunday": "saturday",
}

# METADATA
# title: Whether it is now between two moments
# description: |
#   between({"from": "2026-02-16T22:00", "until": "2026-02-17T04:00"}) holds in that
#   night.
between(window) if {
	window.from <= moment
	moment < window.until
}
