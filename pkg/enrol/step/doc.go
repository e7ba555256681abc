// Package step speaks as much of smallstep's API, at the enrolment listener, as its
// step command needs to enrol a device with a one-time token, to renew, to
// rekey and to revoke with the certificate there is, and to fetch the root.
//
// The token that step takes is a JWT. [Token] makes one of a token of ours: its
// claims say where to go and what the root's fingerprint is, and carry our token
// as the JWT's id. That alone is what proves anything here; the JWT's signature is
// there because the form has one.
//
// Renewal is by the certificate in the TLS handshake, or in a token that its key signed
// (renewal.go), which is how step renews what has ended.
package step
