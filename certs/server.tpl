{{- /* The gateway itself, as devices see it: DNS names and IP addresses, never a URI. Data: see README.md. */ -}}
{
	"subject": { {{- if .Name }}"commonName": {{ toJson .Name }}, {{ end }}"organization": [{{ toJson .Organisation }}]},
	"dnsNames": {{ toJson .DNSNames }},
	"ipAddresses": {{ toJson .IPAddresses }},
	"keyUsage": ["digitalSignature"{{ if .KeyEncipherment }}, "keyEncipherment"{{ end }}],
	"extKeyUsage": ["serverAuth"],
	"basicConstraints": {"isCA": false}
}
