# METADATA
# title: Paths of web services
# description: |
#   A pattern is a list of segments, as the path is. "*" stands for any one
#   segment, and "**" at the end for any number, also none.
package anteroom.lib.path

# METADATA
# title: Whether a path fits a pattern
# description: matches(["studies", "*"], ["studies", "1.2.3"]) holds.
matches(pattern, path) if pattern == path

matches(pattern, path) if {
	"*" in pattern
	count(pattern) == count(path)
	every i, segment in pattern {
		fits(segment, path[i])
	}
}

matches(pattern, path) if {
	last := count(pattern) - 1
	pattern[last] == "**"
	count(path) >= last
	every i, segment in array.slice(pattern, 0, last) {
		fits(segment, path[i])
	}
}

fits(segment, name) if segment == name

fits("*", name) if name != ""
