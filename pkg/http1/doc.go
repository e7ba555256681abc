// Package http1 is the syntax of HTTP/1.1 messages (RFC 9112), for whoever reads
// or writes them: the gateway, which is a server to devices, and its backends'
// client.
//
// Reading is strict. Nothing is repaired: a bare LF, a folded line, white space
// before a colon, a sign, a second length, a control character are all errors,
// because two programs that get over them do not get over them in the same way.
// An error is a [*SyntaxError] whose text holds no byte of the message, which
// may be about a patient.
//
// Names of fields are kept in lower case, for that is how they are compared, and
// written with capitals, for that is what old programs look for.
//
// Nothing here allocates for each field: a head is copied once and its fields are
// parts of that copy.
package http1
