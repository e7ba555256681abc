package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ACME configures what ACME accounts may ask for.
type ACME struct {
	Servers     []ACMEServer      `yaml:"servers" doc:"Servers beside the gateway that get certificates for DNS names, by http-01 or tls-alpn-01. Such a certificate is no device's identity."`
	Attestation []ACMEAttestation `yaml:"attestation" doc:"Whose word is taken that hardware holds a device's key (device-attest-01), by manufacturer."`
}

// An ACMEServer is a server that may have certificates for names.
type ACMEServer struct {
	Device   string   `yaml:"device" required:"true" doc:"Id of its record in the registry, with which its certificates live and end."`
	Names    []string `yaml:"names" required:"true" doc:"The DNS names it may have."`
	Address  string   `yaml:"address" doc:"The IP address where it answers challenges. No DNS is asked then."`
	Networks []string `yaml:"networks" doc:"In place of address: where the names may lead, as CIDR ranges of at most 2^24 addresses (IPv6: /32). Nothing outside of them is connected to, nor a loopback or link-local address in them."`
	HTTPPort int      `yaml:"http_port" default:"80" doc:"Port of http-01."`
	TLSPort  int      `yaml:"tls_port" default:"443" doc:"Port of tls-alpn-01."`
}

// An ACMEAttestation is whose word is taken for the hardware of a manufacturer.
type ACMEAttestation struct {
	Manufacturer string   `yaml:"manufacturer" required:"true" doc:"The manufacturer as the devices' records have it, in capitals or not. The roots vouch for no other's devices."`
	Formats      []string `yaml:"formats" required:"true" doc:"Formats of statements that are taken: step (a certificate about the key, as PIV tokens make it), tpm (a TPM 2.0's) and apple (a managed Apple device's)."`
	Roots        string   `yaml:"roots" required:"true" doc:"PEM roots of the certificates in the statements."`
}

// The widest networks in which a server's names may lie. A wider one is no limit
// to where a challenge can send the gateway.
const (
	widestIPv4 = 8
	widestIPv6 = 32
)

// AttestationFormats are the formats of statements about a key that are
// understood.
func AttestationFormats() []string { return []string{"step", "tpm", "apple"} }

func (d *decoder) checkACME(at string, a *ACME) {
	devices, names := map[string]bool{}, map[string]bool{}
	for i := range a.Servers {
		s, at := &a.Servers[i], fmt.Sprintf("%s.servers[%d]", at, i)
		if devices[s.Device] {
			d.bad(at+".device", fmt.Sprintf("there is another entry for %s", s.Device), "one has all its names")
		}
		devices[s.Device] = true
		for j, n := range s.Names {
			at := fmt.Sprintf("%s.names[%d]", at, j)
			if !validDNS(n) {
				d.bad(at, fmt.Sprintf("%q is not a DNS name in lower case", n), "")
			}
			if names[n] {
				d.bad(at, fmt.Sprintf("%s is listed twice", n), "a name is one server's")
			}
			names[n] = true
		}
		d.checkWhere(at, s)
		if s.HTTPPort < 1 || s.HTTPPort > 65535 || s.TLSPort < 1 || s.TLSPort > 65535 {
			d.bad(at, "http_port and tls_port go from 1 to 65535", "")
		}
	}
	for i := range a.Attestation {
		v, at := &a.Attestation[i], fmt.Sprintf("%s.attestation[%d]", at, i)
		if slices.ContainsFunc(a.Attestation[:i], func(o ACMEAttestation) bool { return strings.EqualFold(o.Manufacturer, v.Manufacturer) }) {
			d.bad(at+".manufacturer", "there is another entry for it", "one has all its roots")
		}
		for j, f := range v.Formats {
			if !slices.Contains(AttestationFormats(), f) {
				d.bad(fmt.Sprintf("%s.formats[%d]", at, j), fmt.Sprintf("%q is not a format that is understood", f), "step, tpm or apple")
			}
		}
	}
}

// checkWhere checks where a server may be looked for.
func (d *decoder) checkWhere(at string, s *ACMEServer) {
	if (s.Address == "") == (len(s.Networks) == 0) {
		d.bad(at, "it needs either address or networks", "where the server may be looked for")
	}
	if s.Address != "" {
		if a, err := netip.ParseAddr(s.Address); err != nil || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			d.bad(at+".address", fmt.Sprintf("%q is not the IP address of a host", s.Address), "")
		}
	}
	for j, n := range s.Networks {
		at := fmt.Sprintf("%s.networks[%d]", at, j)
		p, err := netip.ParsePrefix(n)
		switch {
		case err != nil || p != p.Masked() || p.Addr().Is4In6():
			d.bad(at, fmt.Sprintf("%q is not a CIDR range", n), "such as 10.20.0.0/16")
		case p.Addr().Is4() && p.Bits() < widestIPv4, p.Addr().Is6() && p.Bits() < widestIPv6:
			d.bad(at, fmt.Sprintf("%s is too wide to be a limit", n), fmt.Sprintf("at most a /%d, of IPv6 a /%d", widestIPv4, widestIPv6))
		}
	}
}
