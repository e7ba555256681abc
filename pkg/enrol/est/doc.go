// Package est speaks EST, Enrollment over Secure Transport (RFC 7030 with the
// clarifications of RFC 8951), at the enrolment listener.
//
// There are /cacerts, /simpleenroll, /simplereenroll and /csrattrs below
// /.well-known/est, with or without the trust domain as the label in between
// (§3.2.2). A device enrols with HTTP basic authentication, its id as the user
// and a one-time token as the password, and renews with its certificate in the
// TLS handshake. The full CMC and server-side key generation of the RFC are not
// there: the gateway never has a device's private key.
package est
