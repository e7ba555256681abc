# What no device does over FHIR.
#
# These hold whatever the class says, so that a slip in a class cannot open
# the whole server: bulk reads, other people's records by a detour, and
# deletions that nobody can name beforehand. data.fhir holds the lists.
package anteroom.authz

# METADATA
# title: No export, no whole record, no second query language
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "whole records, exports and server maintenance are not for devices" if {
	input.request.protocol == "fhir"
	input.request.fhir.interaction == "operation"
	input.request.fhir.operation in data.fhir.never_operations
}

# METADATA
# title: No history but that of one resource
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "the history of all records is not for devices" if {
	input.request.protocol == "fhir"
	input.request.fhir.interaction in {"history-system", "history-type"}
}

# METADATA
# title: No search over every type at once
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "a search over the whole server is not for devices" if {
	input.request.protocol == "fhir"
	input.request.fhir.interaction == "search-system"
}

# METADATA
# title: No deletion of whatever a search finds
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "deleting what a search finds is not for devices" if {
	input.request.protocol == "fhir"
	input.request.fhir.interaction == "conditional-delete"
}

deny contains "deleting what a search finds is not for devices" if {
	input.request.protocol == "fhir"
	input.request.fhir.interaction == "delete"
	input.request.fhir.conditional == true
}
