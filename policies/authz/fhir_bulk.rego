# How much may be read at once over FHIR.
#
# A search that says for whom it is can still ask for more than a device has use
# for. data.fhir has the bounds, and data.classes.<class>.fhir others for a class.
package anteroom.authz

# METADATA
# title: No more results at a time than a class has use for
# description: |
#   The value of _count. A search without it gets as many as its server gives by
#   itself, which the server should bound.
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "the search asks for more at a time than its class may have" if {
	input.request.fhir.count >= 0
	not few
}

# METADATA
# title: No search for many at once
# description: |
#   "patient=1,2,3" finds three patients' records. What counts is the most values
#   that one parameter takes.
# custom:
#   controls:
#     - HIPAA 164.502(b) Minimum necessary
#     - NIST 800-53 AC-6 Least privilege
#     - NIST 800-53 AC-23 Data mining protection
deny contains "the search looks for more at once than its class may" if {
	input.request.fhir.alternatives > 1
	not narrow_search
}

few if input.request.fhir.count <= data.classes[input.device.class].fhir.max_count

few if {
	not own_limit("max_count")
	input.request.fhir.count <= data.fhir.max_count
}

narrow_search if input.request.fhir.alternatives <= data.classes[input.device.class].fhir.max_alternatives

narrow_search if {
	not own_limit("max_alternatives")
	input.request.fhir.alternatives <= data.fhir.max_alternatives
}

own_limit(name) if is_number(data.classes[input.device.class].fhir[name])
