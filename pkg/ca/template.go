package ca

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io/fs"
	"text/template"

	"go.step.sm/crypto/x509util"

	"github.com/anteroom-iomt/anteroom/certs"
)

// loadTemplates reads the profiles' templates. They are parsed once: smallstep's own
// option parses a template for each certificate, which took a tenth of what issuing
// one costs.
func loadTemplates() (map[Profile]*template.Template, error) {
	out := make(map[Profile]*template.Template, 3)
	for p, name := range map[Profile]string{Device: certs.Device, Operator: certs.Operator, Server: certs.Server} {
		b, err := fs.ReadFile(certs.FS, name)
		if err != nil {
			return nil, err
		}
		if out[p], err = template.New(name).Funcs(x509util.GetFuncMap()).Parse(string(b)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// fill returns what the profile's template says of a certificate with this content. It
// has no key yet.
func (c *content) fill(tmpl *template.Template) (*x509.Certificate, error) {
	ips := make([]string, len(c.ips))
	for i, ip := range c.ips {
		ips[i] = ip.String()
	}
	data := map[string]any{
		"Name": c.name, "Organisation": c.organisation,
		"DNSNames": append([]string{}, c.dns...), "IPAddresses": ips,
		"KeyEncipherment": c.keyEncipherment,
	}
	if c.uri != nil {
		data["URI"] = c.uri.String()
	}
	cert, err := x509util.NewCertificateFromX509(&x509.Certificate{}, func(_ *x509.CertificateRequest, o *x509util.Options) error {
		o.CertBuffer = new(bytes.Buffer)
		return tmpl.Execute(o.CertBuffer, data)
	})
	if err != nil {
		return nil, fmt.Errorf("fill the template: %w", err)
	}
	return cert.GetCertificate(), nil
}
