# The patient compartment.
#
# A bedside device writes for the patient it stands by and for nobody else. Which
# classes are held to that, and in what, is data, in
# data.classes.<class>.fhir.compartment; who is at which bedside, the registry
# knows ("anteroom device associate"). A class that is not held to it pays nothing
# for these: its bodies pass unread.
package anteroom.authz

# METADATA
# title: For its own patient, and no other
# description: |
#   Whoever the request names has to be associated with the device. An entry of a
#   Bundle is a request of its own here.
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - HIPAA 164.312(c)(1) Integrity
#     - HIPAA 164.502(b) Minimum necessary
#     - NIST 800-53 AC-3 Access enforcement
#     - NIST 800-53 AC-6 Least privilege
deny contains "this is about a patient with whom the device is not associated" if {
	input.request.protocol == "fhir"
	some kind in data.classes[input.device.class].fhir.compartment.held
	input.request.fhir.interaction in interactions_of[kind]
	not yields(kind)
	some patient in input.request.fhir.patients
	patient != ""
	not associated(patient)
	not excepted
}

# METADATA
# title: Nobody in particular is not its patient
# description: |
#   Where it can not be told who is meant, it may be anybody: an absolute
#   reference, one to a contained patient, one that the server looks up, an
#   identifier without a system.
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - HIPAA 164.312(c)(1) Integrity
#     - HIPAA 164.502(b) Minimum necessary
#     - NIST 800-53 AC-3 Access enforcement
#     - NIST 800-53 AC-6 Least privilege
deny contains "it can not be told which patient this is about" if {
	input.request.protocol == "fhir"
	some kind in data.classes[input.device.class].fhir.compartment.held
	input.request.fhir.interaction in interactions_of[kind]
	not clear
	not excepted
}

associated(patient) if patient in input.device.patients

# In an emergency it may read of another patient who is named, and write of none.
yields(kind) if {
	kind in {"read", "search"}
	lifted("compartment")
}

# One that names nobody is fine for a type that is about nobody.
clear if {
	input.request.fhir.patients == []
	open_type
}

clear if {
	count(input.request.fhir.patients) > 0
	not "" in input.request.fhir.patients
}

excepted if input.request.fhir.type in data.classes[input.device.class].fhir.compartment.except

# An operation may do either.
interactions_of := {
	"write": {
		"create", "update", "patch", "delete",
		"conditional-create", "conditional-update", "conditional-patch", "conditional-delete",
		"operation",
	},
	"read": {"read", "vread", "history-instance", "operation"},
	"search": {"search-type", "search-system", "search-compartment", "history-type", "history-system", "operation"},
}
