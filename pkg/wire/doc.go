// Package wire is a TCP connection that carries TLS and asks the kernel for no
// more than it needs. Under crypto/tls a record costs two reads, one for its
// first half kilobyte and one for the rest, and a connection keeps a buffer of
// the largest record it ever saw; a request to a backend costs a look at whether
// the connection is still good, a write, a read that finds nothing, and a read.
//
// A [Conn] reads as much as is there into a buffer that it holds only while
// something is in it, and hands TLS one record at a time, so that nothing is left
// inside TLS between two messages. With [Conn.Ask], what is written next is held
// back until the answer is waited for; then one look at the connection finds out
// that it is still open and that nothing is left over on it, the request is
// written, and the wait begins.
//
// Everything else is the TCP connection's own: deadlines, closing, half-closing.
package wire
