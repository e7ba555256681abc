// Package machine evaluates rules by way of the plans that OPA makes of them.
//
// OPA can turn a set of rules into its intermediate representation: an imperative
// program of some thirty kinds of statements (see
// https://www.openpolicyagent.org/docs/ir). It is what OPA's own WebAssembly
// compiler and the evaluators in other languages start from. This package has OPA
// make such a plan, turns it into a [Program] of Go functions, and runs that. What
// the rules mean is OPA's planner's word, and what a built-in function gives is
// OPA's; here is only the order in which things are done, which takes several
// times less than walking the rules' syntax trees.
//
// A plan with statements that are not understood is refused with [ErrUnsupported],
// and a run that fails for any reason says so; both are for the caller to put to
// OPA's evaluator instead, whose answer counts.
package machine
