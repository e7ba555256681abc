# A device's own record.
#
# A device keeps its own Device resource up to date and nobody else's. Its own
# is the one with its id, or with the id in its tag "fhir-device".
package anteroom.authz

# METADATA
# title: No changes to another device's record
# custom:
#   controls:
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
deny contains "a device may change only its own device record" if {
	input.request.protocol == "fhir"
	input.request.fhir.type == "Device"
	input.request.fhir.interaction in {
		"update", "patch", "delete",
		"conditional-update", "conditional-patch", "conditional-delete",
	}
	not own_record
}

own_record if input.request.fhir.id == input.device.id

own_record if {
	input.request.fhir.id == input.device.tags["fhir-device"]
	input.request.fhir.id != ""
}
