# Working hours.
#
# When devices of a class, at a place, or on a route work. data.hours lists the
# hours of each day, in the facility's time; what is not listed works at any time.
# Devices that a patient's life depends on are never cut off here, and nobody from
# the quarantine lane.
package anteroom.authz

import data.anteroom.lib.clock

# METADATA
# title: Hours of a class
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - NIST 800-53 AC-2(11) Usage conditions
#     - NIST 800-53 AC-3 Access enforcement
deny contains "devices of this class do not work at this time" if {
	data.hours.classes[input.device.class]
	input.device.life_critical == false
	not among(data.hours.classes[input.device.class])
	not in_lane
	not lifted("hours")
}

# METADATA
# title: Hours of a place
# custom:
#   controls:
#     - HIPAA 164.310(c) Workstation security
#     - NIST 800-53 AC-2(11) Usage conditions
#     - NIST 800-53 AC-3 Access enforcement
deny contains "no device works at this place at this time" if {
	data.hours.locations[input.device.location]
	input.device.life_critical == false
	not among(data.hours.locations[input.device.location])
	not in_lane
	not lifted("hours")
}

# METADATA
# title: Hours of a route
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - NIST 800-53 AC-2(11) Usage conditions
#     - NIST 800-53 AC-4 Information flow enforcement
deny contains "this route is closed at this time" if {
	data.hours.routes[input.route.name]
	input.device.life_critical == false
	not among(data.hours.routes[input.route.name])
	not in_lane
	not lifted("hours")
}

among(windows) if {
	some window in windows
	clock.within(window)
}
