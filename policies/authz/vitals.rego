package anteroom.authz
allow contains "monitors may report" if {
	input.device.class == "patient-monitor"
	input.request.fhir.type == "Observation"
}
