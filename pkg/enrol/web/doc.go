// Package web speaks HTTP at the enrolment listener. It serves a table of
// endpoints and nothing else: what is not in the table is not there, and nothing
// in it leads to a backend, a route or an operator's call.
//
// Every request is held to the same rules before an endpoint sees it: a host
// that was configured, a path in its one plain spelling, a body of at most
// [MaxBody] bytes, and no more requests from an address than it may make. An
// address that shows wrong secrets is locked out, for longer each time. An
// endpoint turns what its protocol says into an [enrol.Request] and the answer
// or the refusal into its protocol's form.
//
// The package itself has the plain endpoints (POST /enrol, POST /enrol/renew,
// GET /roots.pem); EST is in package est, smallstep's API in package step, both
// beside it.
package web
