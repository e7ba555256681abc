{{- /* A device: one URI that names it, and nothing else that could name anything. Data: see README.md. */ -}}
{
	"subject": {"commonName": {{ toJson .Name }}, "organization": [{{ toJson .Organisation }}]},
	"sans": [{"type": "uri", "value": {{ toJson .URI }}}],
	"keyUsage": ["digitalSignature"],
	"extKeyUsage": ["clientAuth"],
	"basicConstraints": {"isCA": false}
}
