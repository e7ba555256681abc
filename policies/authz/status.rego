# Status.
#
# Only a device in service may do anything, but for the quarantine lane. The
# gateway ends the sessions of others by itself; this says why in the record, and
# holds where it could not.
package anteroom.authz

# METADATA
# title: A device that is quarantined does nothing outside its lane
# custom:
#   controls:
#     - HIPAA 164.308(a)(6)(ii) Response and reporting
#     - NIST 800-53 IR-4 Incident handling
#     - NIST 800-53 AC-2(3) Disable accounts
deny contains "the device is quarantined" if {
	input.device.status == "quarantined"
	not in_lane
}

# METADATA
# title: A device that is not in service yet does nothing
# custom:
#   controls:
#     - HIPAA 164.308(a)(6)(ii) Response and reporting
#     - NIST 800-53 IR-4 Incident handling
#     - NIST 800-53 AC-2(3) Disable accounts
deny contains "the device is not yet in service" if input.device.status == "pending"

# METADATA
# title: A device that was taken out of service does nothing
# custom:
#   controls:
#     - HIPAA 164.308(a)(6)(ii) Response and reporting
#     - NIST 800-53 IR-4 Incident handling
#     - NIST 800-53 AC-2(3) Disable accounts
deny contains "the device is out of service for good" if input.device.status in {"revoked", "retired"}

# METADATA
# title: A certificate without a record opens nothing
# custom:
#   controls:
#     - HIPAA 164.308(a)(6)(ii) Response and reporting
#     - NIST 800-53 IR-4 Incident handling
#     - NIST 800-53 AC-2(3) Disable accounts
deny contains "the device is not in service" if {
	not input.device.status in {"active", "quarantined", "pending", "revoked", "retired"}
}
