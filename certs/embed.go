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

// FS holds the templates.
//
//go:embed device.tpl operator.tpl server.tpl
var FS embed.FS
