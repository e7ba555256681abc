// Package est speaks EST, Enrollment over Secure Transport (RFC 7030 with the
// clarifications of RFC 8951), at the enrolment listener.
//
// There are /cacerts, /simpleenroll, /simplereenroll and /csrattrs below
// /.well-known/est, with or without the trust domain as the label in between
// (§3.2.2). A device enrols with HTTP basic authentication, its id as the user
// and a one-time token as the password, or with its manufacturer's certificate in the
// TLS handshake, and then waits (202) until it is approved (§4.2.3). It renews with
// its own certificate there. The full CMC and server-side key generation of the RFC are not
// there: the gateway never has a device's private key.
package est
