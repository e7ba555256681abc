// Package httpgw speaks HTTP with devices: HTTP/1.1 with an engine of its own,
// HTTP/2 with golang.org/x/net/http2, and WebSocket as one decided transaction.
//
// Both engines turn what a device sent into the same message, and one exchange
// does the rest: canonical form, route, transaction, judge, backend, response.
// What reaches a backend is serialised anew from the canonical form that was
// judged; nothing a device wrote is passed on as it was written.
//
// The engines are strict and repair nothing: what two HTTP implementations could
// read in two ways is refused with 400 and the connection is closed (RFC 9112
// sections 3, 5, 6, 7 and 11). [Canonical] documents the one form of a request
// target there is here.
//
// What a decision obliges to is done where the request leaves and where its answer
// comes back: a request is mirrored ([Mirrors]) and asked for what can be redacted,
// an answer is redacted and counted. What can not be done is said before it is
// decided, or the answer is withheld. A request with no such duty passes none of it.
//
// A [Gateway] is made for one listener and serves any number of sessions at
// once; its [Table] of routes is swapped while it does.
package httpgw
