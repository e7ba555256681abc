package anteroom.lib.path_test

import data.anteroom.lib.path

test_equal_paths_match if {
	path.matches([], [])
	path.matches(["a", "b"], ["a", "b"])
}

test_other_paths_do_not if {
	not path.matches(["a"], ["b"])
	not path.matches(["a"], ["a", "b"])
	not path.matches(["a", "b"], ["a"])
	not path.matches(["a"], ["A"])
	not path.matches(["a"], [])
	not path.matches([], ["a"])
}

test_a_star_is_one_segment if {
	path.matches(["a", "*"], ["a", "b"])
	path.matches(["*", "b"], ["a", "b"])
	not path.matches(["a", "*"], ["a"])
	not path.matches(["a", "*"], ["a", ""])
	not path.matches(["a", "*"], ["a", "b", "c"])
}

test_two_stars_are_the_rest if {
	path.matches(["a", "**"], ["a"])
	path.matches(["a", "**"], ["a", "b"])
	path.matches(["a", "**"], ["a", "b", "c"])
	path.matches(["**"], [])
	not path.matches(["a", "**"], ["b", "c"])
	not path.matches(["a", "**"], [])
}

test_two_stars_count_only_at_the_end if {
	not path.matches(["**", "b"], ["a", "a", "b"])
}
