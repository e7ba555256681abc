# Web services by class.
#
# For what is spoken over HTTP and is not FHIR, such as DICOMweb. Which class may
# use which addresses how is data, in data.classes.<class>.http.
package anteroom.authz

import data.anteroom.lib.path

# METADATA
# title: What a class may do at an address
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - NIST 800-53 AC-6 Least privilege
allow contains "its class may use this web service this way" if {
	input.request.protocol == "http"
	input.device.status == "active"
	granted
}

# One rule of the class is enough; OPA looks no further than the first that fits.
granted if {
	some rule in data.classes[input.device.class].http
	input.request.http.method in rule.methods
	path.matches(rule.path, input.request.http.path)
	narrow(rule)
}

# A rule without query_any holds for any query.
narrow(rule) if not rule.query_any

narrow(rule) if rule.query_any == []

# With it, one of the listed parameters must be given, with values that name
# something: not empty, and without the wildcards of DICOMweb.
narrow(rule) if {
	some name in rule.query_any
	values := input.request.http.query[name]
	count(values) > 0
	every value in values {
		value != ""
		not regex.match(`[*?]`, value)
	}
}
