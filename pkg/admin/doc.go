// Package admin is what operators can do: enrol and withdraw devices, look at
// sessions, see how the gateway is. Every operation checks the operator's roles,
// is recorded with the operator's name, and is durable, record included, before
// it is acknowledged (invariants 5 and 9).
//
// A [State] is the state directory, opened. A [Service] works on it, in the
// gateway's process or in a command's when no gateway runs. The gateway offers
// its Service on a Unix socket in the state directory ([Listen]); a command
// speaks to it through [Dial]. Both sides are used through [API], so a command
// does not know which it has.
//
// The gateway never sees a device's private key: whoever enrols makes the key
// where the device is, and sends a signing request (invariant 6).
package admin
