// Package enrol is how devices come to their certificates. Every way in, whatever
// it speaks, ends in one function, [Registrar.Enrol], and nothing else has the CA
// issue for a device.
//
// A [Request] brings a signing request and a [Proof]: an operator who asks, a
// one-time token, the certificate the device has, that of its manufacturer. Enrol checks, in this order,
// the proof, the signing request, the device's record in the registry and its
// status, that names and key are no other device's, the quota, and what the
// policy set says in data.anteroom.enrolment. Then it has the CA issue, to the
// device profile and no other, and grants: the certificate is in the registry,
// the device active and the proof used up in one durable step, or none of it is.
// What was granted is in the audit log, durably, before it is handed out; what
// was refused is there with the reason.
//
// A request that is cut off before that step leaves a certificate in the CA's
// database that no registry knows, so that it opens nothing, and a token that is
// as good as before. One that is cut off after it has used its token up; whoever
// comes again with the same token and the same key gets the certificate that was
// issued then, until the token's time is over.
//
// A new way in is a proof in this package, if none of those there fits, and a
// package that speaks its protocol (est, and web for JSON over HTTP, below this
// one). A [Registrar] is safe for concurrent use and starts no
// goroutine that outlives the call it was started for.
package enrol
