# FHIR by class.
#
# Which class of device may do what with which type of resource is data, in
# data.classes.<class>.fhir. Each entry of a batch or transaction Bundle is a
# transaction of its own here, beside the Bundle as a whole.
package anteroom.authz

# METADATA
# title: What a class may do with a type of resource
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - HIPAA 164.502(b) Minimum necessary
#     - NIST 800-53 AC-6 Least privilege
allow contains "its class may do this with this type of record" if {
	input.request.protocol == "fhir"
	input.device.status == "active"
	input.request.fhir.interaction in data.classes[input.device.class].fhir.types[input.request.fhir.type]
}

# METADATA
# title: What a class may ask of the server as a whole
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - HIPAA 164.502(b) Minimum necessary
#     - NIST 800-53 AC-6 Least privilege
allow contains "its class may ask this of the server" if {
	input.request.protocol == "fhir"
	input.device.status == "active"
	input.request.fhir.type == ""
	input.request.fhir.interaction in data.classes[input.device.class].fhir.system
}

# METADATA
# title: Which operations a class may call, and on which type
# description: An operation on the server as a whole is listed with the type "".
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - HIPAA 164.502(b) Minimum necessary
#     - NIST 800-53 AC-6 Least privilege
allow contains "its class may call this operation" if {
	input.request.protocol == "fhir"
	input.device.status == "active"
	input.request.fhir.interaction == "operation"
	input.request.fhir.type in data.classes[input.device.class].fhir.operations[input.request.fhir.operation]
}
