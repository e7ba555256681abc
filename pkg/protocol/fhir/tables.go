package fhir

//go:generate go run ./internal/gen -package ../../../integration/peers/fhir-examples/node_modules/hl7.fhir.r4.examples -out tables_gen.go

// A resource is what the package knows of a type of resource: where it names
// the patient it is about. Both lists join the patient compartment's definition
// with every other parameter that can mean nothing but a patient, such as
// Device's.
type resource struct {
	params []patientParam
	paths  [][]string // elements that are References
}

// A patientParam is a search parameter that can name a patient.
type patientParam struct {
	name string
	only bool // an id without a type means a patient
}

// patientParam finds a parameter of the type's; of searches in no certain type
// only "patient" counts.
func patientParamOf(typ, name string) (p patientParam, ok bool) {
	if typ == "" {
		return patientParam{"patient", true}, name == "patient"
	}
	for _, p := range resources[typ].params {
		if p.name == name {
			return p, true
		}
	}
	return patientParam{}, false
}

func isType(name string) bool {
	_, ok := resources[name]
	return ok
}

func isCompartment(name string) bool {
	for _, c := range compartments {
		if c == name {
			return true
		}
	}
	return false
}
