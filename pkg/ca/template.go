package ca

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io/fs"
	"text/template"

	"github.com/smallstep/certificates/authority/provisioner"
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

// loadRequest reads the signing request that the engine is shown.
func loadRequest() (*x509.CertificateRequest, error) {
	b, err := fs.ReadFile(certs.FS, certs.EngineRequest)
	if err != nil {
		return nil, err
	}
	return ParseCSR(b)
}

// A templateOption has the engine fill a profile's template.
type templateOption struct {
	tmpl *template.Template
	data map[string]any
}

// Options implements provisioner.CertificateOptions.
func (t templateOption) Options(provisioner.SignOptions) []x509util.Option {
	return []x509util.Option{func(_ *x509.CertificateRequest, o *x509util.Options) error {
		o.CertBuffer = new(bytes.Buffer)
		if err := t.tmpl.Execute(o.CertBuffer, t.data); err != nil {
			return fmt.Errorf("fill the template: %w", err)
		}
		return nil
	}}
}

func (c *content) option(tmpl *template.Template) templateOption {
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
	return templateOption{tmpl, data}
}
