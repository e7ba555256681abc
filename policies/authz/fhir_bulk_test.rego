package anteroom.authz_test

import data.anteroom.authz
import data.anteroom.lib.example_test as example

searching(facts) := object.union(example.orders, {"request": {"fhir": facts}})

wide := "the search asks for more at a time than its class may have"

broad := "the search looks for more at once than its class may"

bounds := object.union(data.fhir, {"max_count": 100, "max_alternatives": 20})

# The class as shipped, but for bounds of its own.
unbounded := {"infusion-pump": {"fhir": object.remove(data.classes["infusion-pump"].fhir, ["max_count", "max_alternatives"])}}

test_count_is_bounded if {
	every n in [-1, 0, 1, 100] {
		authz.permitted with input as searching({"count": n}) with data.fhir as bounds with data.classes as unbounded
	}
	every n in [101, 1000000] {
		authz.deny == {wide} with input as searching({"count": n}) with data.fhir as bounds with data.classes as unbounded
	}
}

test_a_class_has_a_bound_of_its_own if {
	classes := object.union(data.classes, {"infusion-pump": {"fhir": {"max_count": 5, "max_alternatives": 0}}})
	authz.permitted with input as searching({"count": 5, "alternatives": 1}) with data.classes as classes
	authz.deny == {wide} with input as searching({"count": 6, "alternatives": 1}) with data.classes as classes
	authz.deny == {broad} with input as searching({"count": 5, "alternatives": 2}) with data.classes as classes
	larger := object.union(data.classes, {"infusion-pump": {"fhir": {"max_count": 500, "max_alternatives": 50}}})
	authz.permitted with input as searching({"count": 500, "alternatives": 50}) with data.classes as larger
	authz.deny == {wide, broad} with input as searching({"count": 501, "alternatives": 51}) with data.classes as larger
}

test_alternatives_are_bounded if {
	every n in [0, 1, 20] {
		authz.permitted with input as searching({"alternatives": n}) with data.fhir as bounds with data.classes as unbounded
	}
	authz.deny == {broad} with input as searching({"alternatives": 21}) with data.fhir as bounds with data.classes as unbounded
}

test_histories_are_bounded_too if {
	guarded({"interaction": "history-instance", "count": 1000}) == {wide}
	guarded({"interaction": "history-instance", "count": 10}) == set()
}

test_without_a_bound_nothing_is_few if {
	fhir := object.remove(data.fhir, ["max_count", "max_alternatives"])
	authz.deny == {wide, broad} with input as searching({"count": 1, "alternatives": 2}) with data.fhir as fhir with data.classes as unbounded
	authz.permitted with input as searching({"count": -1, "alternatives": 1}) with data.fhir as fhir with data.classes as unbounded
}
