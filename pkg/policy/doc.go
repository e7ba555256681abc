// Package policy loads a directory of Rego and data, and answers for each
// transaction whether it is allowed. It knows no protocol: what a transaction
// is made of comes to it as typed facts (package protocol), and which device
// asks as a registry record (package device).
//
// The life of a policy set has three steps, each a few files here:
//
//	load     files.go reads the directory within limits, data.go turns YAML and
//	         JSON into one document, compile.go compiles the Rego strictly
//	         against the schema of the input and without dangerous built-ins.
//	analyse  reach.go computes which parts of the input the decision can read,
//	         and which rules make it depend on more than the input.
//	decide   facts.go names what there is to know of a question; input.go builds
//	         of it just the parts that are read, decide.go evaluates and reads
//	         the answer. Anything but a well-formed allow is a deny. cache.go
//	         remembers answers by those same parts (key.go), exactly.
//
// A [Set] is one such loaded directory. It never changes, is safe for
// concurrent use, and can be held beside others. An [Engine] holds the set in
// force and replaces it, in one atomic step, when the directory changes to
// another good one; a bad one is reported and changes nothing.
//
// A [Source] is a set that was read and is not compiled yet, from a directory or
// from a bundle in OPA's format (package bundle below this one); sets are
// compared by it ([Diff]). An Engine can be given one in place of its directory
// (Put), and can try one with some devices first (Try): then [Engine.For] says
// who is decided on by which.
//
// # Where it fails
//
// [Load] returns a [*LoadError] that lists every problem with file and line.
// Once loaded, nothing fails towards allow: an evaluation error, a result of
// the wrong shape, an obligation the gateway cannot meet, a time limit or a
// cancelled context is a [Decision] that denies, with Fault saying what went
// wrong. Fault never holds a value of the input, because that may be a
// patient's.
//
// Test runs the Rego tests of a directory with OPA's own test runner.
//
// What a policy sees is described field by field in docs/policy-input.md.
package policy
