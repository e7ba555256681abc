# Break-glass.
#
# While two operators have opened an emergency grant for a device, it may do what
# data.break_glass lists beyond what its class may. Few reasons to deny give way, and
# each says so where it is written, by asking "lifted". What never gives way: a device
# that is not in service, data.closed, bulk reads, searches for everybody, histories
# and deletions. The gateway refuses devices that are revoked, quarantined, retired or
# expired before it asks any of this.
package anteroom.authz

import data.anteroom.lib.path

# METADATA
# title: What anyone may do with a type of resource in an emergency
# custom:
#   controls:
#     - HIPAA 164.312(a)(2)(ii) Emergency access procedure
#     - NIST 800-53 AC-3(10) Audited override of access control mechanisms
allow contains "an emergency grant is open, and this is what it is for" if {
	input.break_glass.active == true
	input.request.protocol == "fhir"
	input.device.status == "active"
	input.request.fhir.interaction in data.break_glass.everyone[input.request.fhir.type]
}

# METADATA
# title: What a class may do with a type of resource in an emergency
# custom:
#   controls:
#     - HIPAA 164.312(a)(2)(ii) Emergency access procedure
#     - NIST 800-53 AC-3(10) Audited override of access control mechanisms
allow contains "an emergency grant is open, and this is what it is for with its class" if {
	input.break_glass.active == true
	input.request.protocol == "fhir"
	input.device.status == "active"
	input.request.fhir.interaction in data.break_glass.classes[input.device.class].fhir[input.request.fhir.type]
}

# METADATA
# title: What a class may do at an address in an emergency
# custom:
#   controls:
#     - HIPAA 164.312(a)(2)(ii) Emergency access procedure
#     - NIST 800-53 AC-3(10) Audited override of access control mechanisms
allow contains "an emergency grant is open, and this is what its class needs of this web service" if {
	input.break_glass.active == true
	input.request.protocol == "http"
	input.device.status == "active"
	some rule in data.break_glass.classes[input.device.class].http
	input.request.http.method in rule.methods
	path.matches(rule.path, input.request.http.path)
	narrow(rule)
}

# Asked for with "not" by the denials that give way to an emergency, with their name
# in data.break_glass.lifts.
lifted(name) if {
	input.break_glass.active == true
	name in data.break_glass.lifts
}
