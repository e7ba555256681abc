// Package relay carries connections: from a port that only the device may connect
// to, to a listener of the gateway over mutual TLS ([Forward]), and from a port
// that only the gateway may connect to, to a server of the device ([Reverse]).
//
// One connection is carried by one connection, so that a device's sessions are
// sessions at the gateway too and end when they end: an end of one direction is
// passed on as such, an abortive end as such, and whoever reads slowly is waited
// for by whoever writes, over all of the way. What is held is one buffer for each
// direction.
//
// Nothing here decides about what is carried; the gateway does. What is changed is
// the Host of HTTP requests, because the device knows the agent by another name
// than the gateway has. Requests are read for that by the gateway's own grammar
// ([http1]), and what has no clear end is refused.
package relay
