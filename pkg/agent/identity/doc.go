// Package identity is who the agent is to the gateway: the device's key and
// certificate, how it comes to them, and how it comes to the next.
//
// A [Store] keeps them in a folder: identity.pem, the key (or what a TPM has it back
// from) with its certificate in one file, so that no crash leaves one without the other; roots.pem, what the
// gateway's certificates are checked against; and, while a certificate is asked
// for, the key it is asked for, so that an answer that was lost is asked for again
// with the same key and is the same. Every file is 0600, written whole and synced
// under another name, and then renamed.
//
// A [Client] asks the gateway's enrolment listener. The first time it knows that
// listener by the fingerprint of a root and by nothing else: the root is fetched
// from whoever answers, which is safe because only the certificate with that
// fingerprint is taken, and only then is anything secret sent, over a connection
// that was verified against it.
//
// A [Holder] is what connections are made with: it has the certificate in force
// and notices when another process has put a new one there. It is safe for
// concurrent use.
package identity
