// Package acme speaks ACME, Automatic Certificate Management Environment
// (RFC 8555), at the enrolment listener: http-01 (§8.3), tls-alpn-01 (RFC 8737) and
// device-attest-01 (draft-ietf-acme-device-attest).
//
// Nothing here is open to strangers. An account is opened with a one-time token of
// a device in the registry, as the external account it is bound to (§7.3.4), and
// does for that device, and for as long as the device's record allows, one of two
// things. A server that the configuration lists gets a certificate for the DNS
// names it is listed with, once it has answered for each; it says no identity. A
// device gets its identity's certificate for a key that its hardware attests, on
// the word of roots that the configuration names for its manufacturer. Every order
// ends in [enrol.Registrar.Enrol], with what was shown as the proof
// ([enrol.Account]).
//
// Accounts and orders rest in the store and outlive a restart; nonces do not, and a
// client whose nonce is from before is told to take another (§6.5). A challenge is
// tried once, while its request waits, and connects to nothing but the address or
// the networks that the configuration has for that server.
//
// The signed texts are read strictly: one spelling, no names twice, the one
// algorithm that goes with the key. What a request is refused for is told in the
// protocol's own form and recorded.
package acme
