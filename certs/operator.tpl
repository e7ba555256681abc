{{- /* An operator: a person. Roles rest in the registry, never in the certificate. Data: see README.md. */ -}}
{
	"subject": {"commonName": {{ toJson .Name }}, "organization": [{{ toJson .Organisation }}]},
	"sans": [{"type": "uri", "value": {{ toJson .URI }}}],
	"keyUsage": ["digitalSignature"],
	"extKeyUsage": ["clientAuth"],
	"basicConstraints": {"isCA": false}
}
