# The quarantine lane.
#
# A device in quarantine may reach its update server and nothing else. The
# gateway sees to the second half by itself: a route is closed to such a device
# unless its configuration says quarantine_lane. What a class may do in the lane
# is data, in data.classes.<class>.lane.
package anteroom.authz

import data.anteroom.lib.path

# METADATA
# title: What a class may fetch in the quarantine lane
# description: |
#   Devices in service may use the lane as well: an update that was begun in
#   quarantine goes on after the release.
# custom:
#   controls:
#     - HIPAA 164.308(a)(6)(ii) Response and reporting
#     - NIST 800-53 IR-4 Incident handling
#     - NIST 800-53 SI-2 Flaw remediation
allow contains "its class may fetch this from the update server" if {
	input.route.quarantine_lane == true
	input.request.protocol == "http"
	input.device.status in {"active", "quarantined"}
	some rule in data.classes[input.device.class].lane
	input.request.http.method in rule.methods
	path.matches(rule.path, input.request.http.path)
}

# Asked for with "not" by the denials that would keep a device from what cures it.
in_lane if input.route.quarantine_lane == true
