// Package jws makes and reads the signatures of operators: JSON Web Signatures in
// compact form (RFC 7515 §7.1) that carry the certificate of who made them. It
// says that a signature holds and with which certificate; whose that is, and
// whether it counts, are the caller's to find out.
//
// There is one algorithm for each kind of key, so that no signature can choose
// its own.
package jws
