// Package protocol is the contract between a gateway and the protocols it
// speaks: what a transaction is, what a session is, who judges, and what an
// adapter must do. It holds no code of any protocol.
//
// An adapter (one folder below this one per protocol) turns a device's bytes
// into a [Transaction] of typed facts, asks the [Judge] once, and forwards only
// what was allowed, serialised anew from the form that was judged. Adding a
// protocol is adding a folder.
package protocol
