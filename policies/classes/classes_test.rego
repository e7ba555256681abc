# What holds for the data of every class, the operator's own too: a misspelt
# interaction would allow nothing, and nobody would see why.
package anteroom.classes_test

interactions := {
	"read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type",
	"search-compartment", "conditional-create", "conditional-update", "conditional-patch", "conditional-delete",
}

system := {"capabilities", "batch", "transaction", "history-system", "search-system"}

methods := {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

test_keys_are_known if {
	every class in data.classes {
		object.keys(class) - {"title", "fhir", "http", "lane", "obligations"} == set()
		object.keys(object.get(class, "fhir", {})) - {
			"system", "types", "operations", "includes", "chains",
			"compartment", "max_count", "max_alternatives",
		} == set()
	}
}

test_interactions_are_known if {
	every class in data.classes {
		every type, list in object.get(class, ["fhir", "types"], {}) {
			regex.match(`^[A-Z][A-Za-z]+$`, type)
			every interaction in list {
				interaction in interactions
			}
		}
		every interaction in object.get(class, ["fhir", "system"], []) {
			interaction in system
		}
	}
}

# A word that is misspelt here would hold nobody to anything.
test_compartments_hold_to_something if {
	every class in data.classes {
		every kind in object.get(class, ["fhir", "compartment", "held"], []) {
			kind in {"write", "read", "search"}
		}
		object.keys(object.get(class, ["fhir", "compartment"], {})) - {"held", "except"} == set()
	}
}

test_addresses_are_lists_of_segments if {
	every class in data.classes {
		every rule in object.get(class, "http", []) {
			object.keys(rule) - {"methods", "path", "query_any"} == set()
			count(rule.path) > 0
			every segment in rule.path {
				is_string(segment)
			}
			every method in rule.methods {
				method in methods
			}
		}
	}
}

test_lanes_are_for_fetching if {
	every class in data.classes {
		every rule in object.get(class, "lane", []) {
			object.keys(rule) == {"methods", "path"}
			count(rule.path) > 0
			every method in rule.methods {
				method in {"GET", "HEAD"}
			}
		}
	}
}

test_shipped_classes_are_there if {
	{"infusion-pump", "patient-monitor", "ventilator", "ct-scanner", "glucose-meter", "wearable-gateway"} - object.keys(data.classes) == set()
}
