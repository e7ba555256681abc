# Location.
#
# Where a device stands decides where it may go. data.locations lists, for a
# place, the environments of the routes that are open from there; a place that
# is not listed restricts nothing. An emergency grant holds wherever the device is.
package anteroom.authz

# METADATA
# title: From here, not there
# custom:
#   controls:
#     - HIPAA 164.310(c) Workstation security
#     - NIST 800-53 AC-4 Information flow enforcement
deny contains "from where the device stands it may not use this route" if {
	data.locations[input.device.location]
	not open_from_here
	not lifted("location")
}

open_from_here if input.route.environment in data.locations[input.device.location].environments
