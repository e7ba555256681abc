# Maintenance windows.
#
# data.maintenance.windows names times, once or every week, in the facility's
# time. What is in data.maintenance.only, such as a route to a device maker's
# servers or the class of a service laptop, is open in a window that opens it and
# at no other time. What a window closes, such as the route to an archive that is
# being moved, is closed while it lasts.
package anteroom.authz

import data.anteroom.lib.clock

# METADATA
# title: A route for maintenance
# custom:
#   controls:
#     - HIPAA 164.310(a)(2)(iv) Maintenance records
#     - HIPAA 164.312(a)(1) Access control
#     - NIST 800-53 MA-2 Controlled maintenance
#     - NIST 800-53 MA-4 Nonlocal maintenance
deny contains "this route is open in a maintenance window only" if {
	input.route.name in data.maintenance.only.routes
	not opened_route
}

# METADATA
# title: A class for maintenance
# custom:
#   controls:
#     - HIPAA 164.310(a)(2)(iv) Maintenance records
#     - HIPAA 164.312(a)(1) Access control
#     - NIST 800-53 MA-2 Controlled maintenance
#     - NIST 800-53 MA-3 Maintenance tools
deny contains "devices of this class work in a maintenance window only" if {
	input.device.class in data.maintenance.only.classes
	not opened_class
}

# METADATA
# title: Closed for maintenance
# custom:
#   controls:
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 MA-2 Controlled maintenance
deny contains "this route is closed for maintenance" if {
	some window in data.maintenance.windows
	input.route.name in window.closes.routes
	lasts(window)
}

# METADATA
# title: Not at work during maintenance
# custom:
#   controls:
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 MA-2 Controlled maintenance
deny contains "devices of this class do not work during this maintenance" if {
	some window in data.maintenance.windows
	input.device.class in window.closes.classes
	lasts(window)
}

opened_route if {
	some window in data.maintenance.windows
	input.route.name in window.opens.routes
	lasts(window)
}

opened_class if {
	some window in data.maintenance.windows
	input.device.class in window.opens.classes
	lasts(window)
}

lasts(window) if clock.between(window.once)

lasts(window) if {
	some hours in window.weekly
	clock.within(hours)
}
