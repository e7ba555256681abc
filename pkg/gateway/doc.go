// Package gateway puts the rooms together into one running gateway: state
// directory, policy engine, judge, backends, adapters, listeners, metrics and
// the operator's socket. It knows every room and does no room's work.
//
// A [Gateway] is made by [New], which fails unless everything the configuration
// asks for is there, runs in [Gateway.Run] until its context ends, and takes a
// new configuration in [Gateway.Reload] as one swap: what is new is made whole
// first, and if anything stands in the way nothing changes (invariant 4).
//
// Two gateways in one process do not know of each other.
package gateway
