// Package ca is the embedded certificate authority: it gives devices,
// operators and the gateway itself their certificates.
//
// [Init] makes a CA once: a root, whose encrypted key goes to a file of its
// own that can be taken offline, an intermediate that signs everything else,
// and the CA's database. [Open] opens what Init made; it needs the
// intermediate's passphrase and never the root's key. One process at a time
// has a CA open, because the database is locked. [Authority.Close] waits for calls
// under way; calls after it return [ErrClosed].
//
// [Authority.Issue] is the one function that issues. A signing request
// contributes a public key and the proof of its possession; every name and
// extension in the certificate comes from the profile's template (package
// certs) and the [Request]. A certificate is in the CA's database, on stable
// storage, before Issue returns it, and a revocation is before
// [Authority.Revoke] returns.
//
// Who asks others than the registry gets a signed list from
// [Authority.RevocationList], or asks a responder that [Authority.NewResponder]
// gave a certificate: the one certificate that Issue does not make, because it is
// nobody's identity and can not be revoked.
//
// An identity is a URI in the certificate, and nothing else is. [DeviceID]
// and [OperatorName] read it back: they accept the one exact spelling that
// Issue writes and refuse everything else, so that no two spellings are the
// same device.
//
// The package knows nothing of the registry of devices but the rule for ids
// (device.ValidID), which is that of operators' names too. That a certificate is
// good here means only that this CA signed it; whether its device may come in
// is the registry's to say, every time.
//
// The engine is github.com/smallstep/certificates, used as a library without
// provisioners: an Authority opens no socket, starts no goroutine, makes no network
// request and prints nothing. An Authority is safe for concurrent use.
package ca
