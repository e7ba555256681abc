// Package certs holds the certificate profiles of the embedded CA, as
// smallstep x509 templates, and is the place for manufacturers' trust anchors.
//
// A template decides what is in a certificate; package ca decides what the
// template is told, and refuses to sign a result that is not what the profile
// promises. The README beside this file documents every profile. There are
// no private keys in this directory, and a test keeps it so.
package certs

import "embed"

// Names of the profiles' templates in [FS].
const (
	Device   = "device.tpl"
	Operator = "operator.tpl"
	Server   = "server.tpl"
)

// EngineRequest names the signing request in [FS] that smallstep's engine is shown
// for every certificate. It takes no key without one, and verifies its signature
// twice, when package ca has already seen that whoever asks has the key. This one is
// of a key that nobody kept, and of the kind whose signatures cost least to verify;
// the certificate's key takes its place before anything is signed.
const EngineRequest = "engine.csr"

// FS holds the templates and the request.
//
//go:embed device.tpl operator.tpl server.tpl engine.csr
var FS embed.FS
