// Package scep speaks SCEP, the Simple Certificate Enrolment Protocol (RFC 8894), at
// the enrolment listener, and in plain HTTP where that is configured: messages are
// signed and encrypted themselves.
//
// A device enrols (PKCSReq) with its one-time token as the challenge password, or
// signed with its manufacturer's certificate, and asks again (CertPoll) while it
// waits for approval. It renews (RenewalReq) signed with the certificate it has. The
// proof goes to [enrol.Registrar.Enrol] like any other; what is particular here is
// reading the message.
//
// A message is read in this order, each step within limits: BER is written anew as
// DER (ber.go), the signature is taken apart and verified (message.go), the envelope
// opened (envelope.go), the signing request compared with the signature. Up to there
// everything that is wrong has one answer, badMessageCheck, and counts as a wrong
// secret: whoever alters a message that somebody else sent learns nothing of what
// the altered one decrypts to.
//
// SHA-1, DES and triple DES are refused (badAlg) but for classes of devices that are
// named in the configuration. Keys are RSA, because the protocol encrypts to them. The
// gateway's own is the [Recipient]'s, not the CA's.
package scep
