# What no device searches for over FHIR.
#
# A search is the door to everybody's records: these hold whatever the class says.
# data.fhir holds the lists, and data.classes.<class>.fhir what a class may have
# beside what its search is for.
package anteroom.authz

# METADATA
# title: No parameter of a kind that may widen a search
# description: |
#   _filter, _query, _list, _has, _type and their like; what FHIR may add later is
#   refused until somebody has looked at it.
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "the search uses a parameter that is not known to be harmless" if {
	input.request.protocol == "fhir"
	some name in input.request.fhir.params
	startswith(name, "_")
	not harmless(name)
}

deny contains "the search uses a parameter that is not known to be harmless" if {
	input.request.protocol == "fhir"
	some name in input.request.fhir.result_params
	startswith(name, "_")
	not harmless(name)
}

# METADATA
# title: No parameter that means the opposite of what it names
# description: |
#   "patient:not=7" finds everybody but one, and "patient:missing=true" names nobody.
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "the search turns a parameter round or widens it" if {
	input.request.protocol == "fhir"
	some name in input.request.fhir.modifiers
	not harmless_modifier(name)
}

# METADATA
# title: No related records but those a class may have
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "the search brings along records that its class may not have" if {
	input.request.protocol == "fhir"
	some name in input.request.fhir.includes
	not may_include(name)
}

# METADATA
# title: No search through other records
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "the search goes by way of other records, which its class may not do" if {
	input.request.protocol == "fhir"
	some name in input.request.fhir.chains
	not may_chain(name)
}

# METADATA
# title: No search for everybody's records
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - HIPAA 164.312(c)(1) Integrity
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "a search for patients' records must say for which patient" if {
	input.request.protocol == "fhir"
	input.request.fhir.interaction == "search-type"
	not open_type
	not narrowed
}

# Each of these is a positive fact that the rules above ask for with "not", so
# that a list that is missing denies.

harmless(name) if name in data.fhir.harmless_parameters

harmless_modifier(name) if {
	words := split(name, ":")
	words[count(words) - 1] in data.fhir.harmless_modifiers
}

may_include(name) if name in data.classes[input.device.class].fhir.includes

may_chain(name) if name in data.classes[input.device.class].fhir.chains

open_type if input.request.fhir.type in data.fhir.open_types

narrowed if {
	some name in input.request.fhir.params
	name in data.fhir.narrowing_parameters
}
