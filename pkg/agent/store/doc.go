// Package store is what forwards that keep messages while the gateway is away have
// in common: a port that the device connects to, and one loop that delivers what
// was taken there, in order.
//
// A [Port] has the door, the queue on disk and the loop. What differs is a
// [Protocol]: how a device's messages are framed and acknowledged, and how the
// gateway acknowledges them. The loop has one message under way at a time. It asks
// the protocol for a [Session] when there is something to deliver, keeps it for as
// long as it lives, and does with the message what the session says: take it off
// the store, set it aside in a file of its own, try it again after a pause, or, if
// the session died, in the next one. What was delivered and can not be taken off
// the store, because the disk fails, is not sent again, and nothing else is.
//
// A message that nobody promised to store is an [Errand]: it is delivered when
// nothing is stored, if there is a gateway.
//
// Sessions are used by the loop alone. Everything else of a port is safe for
// concurrent use.
package store
