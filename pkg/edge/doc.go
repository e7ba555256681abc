// Package edge is where devices arrive: it listens, terminates TLS, learns who
// the device is from its certificate and the registry, keeps the table of live
// sessions, and judges every transaction.
//
// A [Server] owns listeners. Each accepted connection goes through the same
// steps: PROXY header (only from named load balancers), TLS handshake with a
// client certificate, identity, session, adapter. Identity is checked in
// tls.Config.VerifyConnection, which unlike VerifyPeerCertificate also runs on
// resumed handshakes, and once more after the session is in the table, so that
// a revocation can not slip between the two.
//
// A session ends at once when the registry says its device may not have one,
// when its certificate expires, when an operator kills it, or when the server
// closes. Sessions of a listener that was reconfigured are asked to finish.
//
// The [Judge] answers adapters. It never allows what was not decided by a named
// policy revision and accepted by the audit log. Of what a decision obliges to it
// sees to limits, the session's age and tags; the rest is the adapter's, which it
// asks first.
//
// All types are safe for concurrent use. Everything a Server starts has stopped
// when [Server.Close] returns.
package edge
