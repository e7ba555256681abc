package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a static binary on a small system has no other source of time zones
)

// maxRetries bounds further attempts at one request.
const maxRetries = 10

// check finds what no single value shows to be wrong.
func (d *decoder) check(f *File) {
	if f.Version != 1 {
		d.bad("version", "only version 1 is known", "")
	}
	if !validDNS(f.TrustDomain) || strings.Trim(f.TrustDomain, "0123456789.") == "" {
		d.bad("trust_domain", "it is not a DNS name in lower case", "such as hospital.example")
	}
	if strings.TrimSpace(f.Organisation) == "" {
		d.bad("organisation", "it is empty", "")
	}
	if _, err := time.LoadLocation(f.Facility.Timezone); err != nil {
		d.bad("facility.timezone", fmt.Sprintf("%q is not an IANA time zone", f.Facility.Timezone), "such as Europe/Berlin")
	}
	d.checkCA(&f.CA)
	d.checkAudit(&f.Audit)
	if a := f.Telemetry.Address; a != "off" && !hostPort(a) {
		d.bad("telemetry.address", fmt.Sprintf("%q is neither host:port nor off", a), "")
	}
	if f.Policy.Timeout <= 0 || f.Policy.MaxSize <= 0 {
		d.bad("policy", "timeout and max_size must be more than nothing", "")
	}
	d.checkBundle(&f.Policy)
	if f.Policy.History < 1 || f.Policy.History > 10000 {
		d.bad("policy.history", "it must be from 1 to 10000", "")
	}
	if s := f.Policy.ShadowShare; s < 1 || s > 100 {
		d.bad("policy.shadow_share", "it must be from 1 to 100 percent", "")
	}
	if m := f.BreakGlass.MaxTime.D(); m < time.Minute || m > MaxBreakGlass {
		d.bad("break_glass.max_time", fmt.Sprintf("it must be from 1m to %v", MaxBreakGlass), "")
	}
	listeners := d.checkListeners(f.Listeners)
	d.checkEnrolment(f)
	d.checkRevocation(f)
	d.checkProxies("findings", &ProxyProtocol{From: f.Findings.SamePlace})
	if f.Findings.ClockError.D() < 10*time.Second {
		d.bad("findings.clock_error", "it must be at least 10s", "Date has whole seconds, and requests take time")
	}
	backends := d.checkBackends(f.Backends)
	d.checkRoutes(f.Routes, listeners, backends)
}

// bad adds a problem at the place a path came from.
func (d *decoder) bad(path, msg, hint string) { d.add(d.at[path], path, msg, hint) }

func (d *decoder) checkBundle(p *Policy) {
	b, at := &p.Bundle, "policy.bundle"
	if p.Source != "bundle" {
		if b.URL != "" {
			d.bad(at+".url", "no bundle is fetched, because policy.source is "+p.Source, "set policy.source: bundle")
		}
		return
	}
	if u, err := url.Parse(b.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		d.bad(at+".url", "source bundle needs the https URL of the bundle", "such as https://bundles.example/ward.tar.gz")
	}
	switch {
	case b.Key == "" && !b.InsecureUnsigned:
		d.bad(at+".key", "bundles are taken only if they are signed", "name the public key's file")
	case b.InsecureUnsigned && (b.Key != "" || b.KeyID != "" || b.Scope != ""):
		d.bad(at+".insecure_unsigned", "it excludes key, key_id and scope", "remove one")
	}
	if b.Interval.D() < time.Second {
		d.bad(at+".interval", "it must be at least 1s", "")
	}
	if b.Token.sources() > 1 {
		d.bad(at+".token", "at most one of file, env and credential", "")
	}
}

func (d *decoder) checkCA(c *CA) {
	d.checkKMS(c)
	if n := c.Passphrase.sources(); n != 1 {
		d.bad("ca.passphrase", fmt.Sprintf("exactly one of file, env and credential is needed, not %d", n), "")
	}
	if c.TTL <= 0 || c.TTL > c.MaxTTL {
		d.bad("ca.ttl", "it must be more than nothing and at most max_ttl", "")
	}
	for class, backdate := range c.ClassBackdate {
		if backdate.D() > MaxBackdate {
			d.bad("ca.class_backdate."+class, fmt.Sprintf("it must be at most %v", MaxBackdate), "what is slower has no clock: see the signed time in docs/certificates.md")
		}
	}
	for class, ttl := range c.ClassTTL {
		if ttl <= 0 || ttl > c.MaxTTL {
			d.bad("ca.class_ttl."+class, "it must be more than nothing and at most max_ttl", "")
		}
	}
}

func (d *decoder) checkAudit(a *Audit) {
	if a.BlockRecords < 1 || a.BlockRecords > 1<<20 {
		d.bad("audit.block_records", "it must be from 1 to 1048576", "")
	}
	if a.BlockTime <= 0 || a.FlushTime <= 0 {
		d.bad("audit", "block_time and flush_time must be more than nothing", "")
	}
	if a.Buffer < 64<<10 {
		d.bad("audit.buffer", "it must be at least 64KiB", "")
	}
	if a.RotateSize < 1<<20 {
		d.bad("audit.rotate_size", "it must be at least 1MiB", "")
	}
}

func (d *decoder) checkListeners(ls []Listener) map[string]*Listener {
	if len(ls) == 0 {
		d.bad("listeners", "there are none", "devices need one to connect to")
	}
	byName, byAddr := map[string]*Listener{}, map[string]bool{}
	for i := range ls {
		l, at := &ls[i], fmt.Sprintf("listeners[%d]", i)
		d.name(at+".name", l.Name, byName[l.Name] != nil)
		byName[l.Name] = l
		if !hostPort(l.Address) {
			d.bad(at+".address", fmt.Sprintf("%q is not host:port", l.Address), "such as 0.0.0.0:8443")
		} else if byAddr[l.Address] && !strings.HasSuffix(l.Address, ":0") {
			d.bad(at+".address", "another listener has the same address", "")
		}
		byAddr[l.Address] = true
		if len(l.Hosts) == 0 {
			d.bad(at+".hosts", "there are none", "the names devices use for this gateway")
		}
		d.checkHosts(at, l.Hosts)
		d.checkProxies(at+".proxy_protocol", &l.ProxyProtocol)
		d.checkCertificate(at+".certificate", &l.Certificate)
		d.checkLimits(at+".limits", &l.Limits)
	}
	return byName
}

func (d *decoder) checkHosts(at string, hosts []string) {
	for j, h := range hosts {
		if _, err := netip.ParseAddr(h); err != nil && !validDNS(h) {
			d.bad(fmt.Sprintf("%s.hosts[%d]", at, j), fmt.Sprintf("%q is neither a DNS name in lower case nor an IP address", h), "")
		}
	}
}

func (d *decoder) checkProxies(at string, p *ProxyProtocol) {
	for j, from := range p.From {
		if _, err := netip.ParsePrefix(from); err != nil {
			if _, err := netip.ParseAddr(from); err != nil {
				d.bad(fmt.Sprintf("%s.from[%d]", at, j), fmt.Sprintf("%q is neither an address nor a CIDR range", from), "")
			}
		}
	}
}

func (d *decoder) checkEnrolment(f *File) {
	e, at := &f.Enrolment, "enrolment"
	if q := &e.Quota; q.Certificates < 1 || q.Window <= 0 {
		d.bad(at+".quota", "certificates must be at least 1, window more than nothing", "")
	}
	l := &e.Limits
	if l.Connections < 1 || l.PerAddress < 1 || l.Requests < 1 || l.Failures < 1 {
		d.bad(at+".limits", "connections, per_address, requests and failures must be at least 1", "")
	}
	if l.Lockout <= 0 || l.Handshake <= 0 || l.Request <= 0 || l.Idle <= 0 {
		d.bad(at+".limits", "lockout, handshake, request and idle must be more than nothing", "there is no waiting for ever")
	}
	if e.Grace.D() > MaxGrace {
		d.bad(at+".grace", fmt.Sprintf("it must be at most %v", MaxGrace), "what lay longer is enrolled anew")
	}
	for class, grace := range e.ClassGrace {
		if grace.D() > MaxGrace {
			d.bad(at+".class_grace."+class, fmt.Sprintf("it must be at most %v", MaxGrace), "what lay longer is enrolled anew")
		}
	}
	d.checkHosts(at, e.Hosts)
	d.checkProxies(at+".proxy_protocol", &e.ProxyProtocol)
	d.checkManufacturers(at+".manufacturers", e.Manufacturers)
	d.checkACME(at+".acme", &e.ACME)
	d.checkSCEP(f)
	if e.Address == "off" {
		return
	}
	if !hostPort(e.Address) {
		d.bad(at+".address", fmt.Sprintf("%q is neither host:port nor off", e.Address), "such as 0.0.0.0:8444")
	}
	for i := range f.Listeners {
		if f.Listeners[i].Address == e.Address && !strings.HasSuffix(e.Address, ":0") {
			d.bad(at+".address", fmt.Sprintf("listener %s has the same address", f.Listeners[i].Name), "enrolment has a listener of its own")
		}
		if f.Listeners[i].Name == EnrolmentListener {
			d.bad(fmt.Sprintf("listeners[%d].name", i), "it is the enrolment listener's name", "")
		}
	}
	if len(e.Hosts) == 0 {
		d.bad(at+".hosts", "there are none", "the names devices use to enrol")
	}
	d.checkCertificate(at+".certificate", &e.Certificate)
}

func (d *decoder) checkSCEP(f *File) {
	s, at := &f.Enrolment.SCEP, "enrolment.scep"
	if s.Enabled && f.Enrolment.Address == "off" {
		d.bad(at+".enabled", "there is no enrolment listener", "set enrolment.address")
	}
	if s.Address == "off" {
		return
	}
	switch {
	case !hostPort(s.Address):
		d.bad(at+".address", fmt.Sprintf("%q is neither host:port nor off", s.Address), "such as 0.0.0.0:8080")
	case !s.Enabled:
		d.bad(at+".address", "SCEP is not enabled", "set enrolment.scep.enabled")
	case s.Address == f.Enrolment.Address && !strings.HasSuffix(s.Address, ":0"):
		d.bad(at+".address", "the enrolment listener has the same address", "it is in plain HTTP, and needs one of its own")
	}
}

// checkManufacturers refuses two manufacturers that records could not be told
// apart by.
func (d *decoder) checkManufacturers(at string, list []Manufacturer) {
	whose := map[string]int{}
	for i, m := range list {
		names := m.RegisteredAs
		if len(names) == 0 {
			names = []string{m.Name}
		}
		for _, n := range append([]string{m.Name}, names...) {
			n = strings.ToLower(strings.TrimSpace(n))
			if n == "" {
				d.bad(fmt.Sprintf("%s[%d].registered_as", at, i), "a name is empty", "")
			}
			if j, ok := whose[n]; ok && j != i {
				d.bad(fmt.Sprintf("%s[%d].name", at, i), fmt.Sprintf("manufacturer %s has this name too", list[j].Name), "")
			}
			whose[n] = i
		}
	}
}

func (d *decoder) checkCertificate(at string, c *ServerCertificate) {
	switch c.Source {
	case "acme":
		if u, err := url.Parse(c.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
			d.bad(at+".directory", "acme needs the https URL of the CA's directory", "")
		}
		if n := c.Account.HMACKey.sources(); n > 1 || (n == 1) != (c.Account.KeyID != "") {
			d.bad(at+".account", "key_id and hmac_key go together, and hmac_key has exactly one of file, env and credential", "")
		}
		if c.HTTPAddress != "" && !hostPort(c.HTTPAddress) {
			d.bad(at+".http_address", fmt.Sprintf("%q is not host:port", c.HTTPAddress), "")
		}
	case "files":
		if c.Certificate == "" || c.Key == "" {
			d.bad(at, "files needs both certificate and key", "")
		}
	case "embedded":
		if c.TTL.D() < time.Minute {
			d.bad(at+".ttl", "it must be at least 1m", "")
		}
	}
}

func (d *decoder) checkLimits(at string, l *Limits) {
	if l.Connections < 1 || l.PerDevice < 1 || l.HeaderFields < 1 || l.BundleEntries < 1 || l.Streams < 1 || l.Streams > 10000 {
		d.bad(at, "connections, per_device, header_fields, bundle_entries and streams (to 10000) must be at least 1", "")
	}
	if l.PerAddress > l.Connections {
		d.bad(at+".per_address", fmt.Sprintf("it must be at most %d, the connections there may be", l.Connections), "")
	}
	if l.Handshake <= 0 || l.Idle <= 0 || l.Head <= 0 || l.Stall <= 0 {
		d.bad(at, "handshake, idle, head and stall must be more than nothing", "there is no waiting for ever")
	}
	if l.HeadBytes < 4<<10 || l.HeadBytes > 1<<20 {
		d.bad(at+".head_bytes", "it must be from 4KiB to 1MiB", "")
	}
	if l.DecisionBytes < 1<<10 || l.DecisionBytes > 256<<20 {
		d.bad(at+".decision_bytes", "it must be from 1KiB to 256MiB", "")
	}
}

func (d *decoder) checkBackends(bs []Backend) map[string]bool {
	names := map[string]bool{}
	for i := range bs {
		b, at := &bs[i], fmt.Sprintf("backends[%d]", i)
		d.name(at+".name", b.Name, names[b.Name])
		names[b.Name] = true
		if len(b.Addresses) == 0 {
			d.bad(at+".addresses", "there are none", "")
		}
		for j, a := range b.Addresses {
			if !hostPort(a) {
				d.bad(fmt.Sprintf("%s.addresses[%d]", at, j), fmt.Sprintf("%q is not host:port", a), "without https://")
			}
		}
		if b.Insecure && (b.CAFile != "" || b.SystemRoots || len(b.Pins) > 0 || b.Certificate != "" || b.ServerName != "" || b.HTTP2) {
			d.bad(at+".insecure", "plain HTTP has no certificates and no HTTP/2", "remove insecure, or the TLS settings")
		}
		if b.CAFile != "" && b.SystemRoots {
			d.bad(at+".system_roots", "ca_file and system_roots exclude each other", "")
		}
		if (b.Certificate == "") != (b.Key == "") {
			d.bad(at+".certificate", "certificate and key go together", "")
		}
		for j, p := range b.Pins {
			raw, ok := strings.CutPrefix(p, "sha256/")
			if sum, err := base64.StdEncoding.DecodeString(raw); !ok || err != nil || len(sum) != 32 {
				d.bad(fmt.Sprintf("%s.pins[%d]", at, j), "it is not sha256/ and 32 bytes in base64", "")
			}
		}
		d.prefix(at+".base_path", b.BasePath)
		d.prefix(at+".health.path", b.Health.Path)
		if b.Connect <= 0 || b.Timeout <= 0 {
			d.bad(at, "connect and timeout must be more than nothing", "")
		}
		if b.MaxConnections < 1 {
			d.bad(at+".max_connections", "it must be at least 1", "")
		}
		if b.MaxPerDevice > b.MaxConnections {
			d.bad(at+".max_per_device", fmt.Sprintf("it must be at most %d, the connections there may be", b.MaxConnections), "")
		}
		if b.Retries > maxRetries {
			d.bad(at+".retries", fmt.Sprintf("it must be at most %d", maxRetries), "each retry is more load on a system that is already in trouble")
		}
		if h := &b.Health; h.Failures < 1 || h.Timeout <= 0 || h.Cooldown <= 0 {
			d.bad(at+".health", "failures must be at least 1, timeout and cooldown more than nothing", "")
		}
	}
	return names
}

func (d *decoder) checkRoutes(rs []Route, listeners map[string]*Listener, backends map[string]bool) {
	names, places := map[string]bool{}, map[string]bool{}
	for i := range rs {
		r, at := &rs[i], fmt.Sprintf("routes[%d]", i)
		d.name(at+".name", r.Name, names[r.Name])
		names[r.Name] = true
		if r.Listener != "" && listeners[r.Listener] == nil {
			d.bad(at+".listener", fmt.Sprintf("there is no listener %q", r.Listener), nearestOf(r.Listener, listeners))
		}
		if !backends[r.Backend] {
			d.bad(at+".backend", fmt.Sprintf("there is no backend %q", r.Backend), nearestOf(r.Backend, backends))
		}
		if r.Host != "" && !hosted(r, listeners) {
			d.bad(at+".host", fmt.Sprintf("no listener has the host %q", r.Host), "")
		}
		d.prefix(at+".path", r.Path)
		place := r.Listener + " " + r.Host + " " + strings.TrimRight(r.Path, "/")
		if places[place] {
			d.bad(at+".path", "another route has the same listener, host and path", "")
		}
		places[place] = true
		if r.OnFailure == "pass" {
			d.passing(at+".on_failure", r)
		}
		if r.Lane && r.Mode == "observe" {
			d.bad(at+".quarantine_lane", "a lane for quarantined devices can not be a route that only observes", "remove mode: observe, or quarantine_lane")
		}
	}
}

// passing refuses on_failure: pass where it can not be had.
func (d *decoder) passing(at string, r *Route) {
	switch {
	case r.Class != "life-safety":
		d.bad(at, "pass is for routes of class life-safety, and this one is of class "+r.Class, "remove on_failure, or say class: life-safety if a patient is harmed when an alarm is refused here")
	case r.Kind != "fhir":
		d.bad(at, "pass is for routes of kind fhir: of anything else nobody knows whether it is a report", "remove on_failure, or say kind: fhir if a FHIR server is behind it")
	case r.Lane:
		d.bad(at, "a lane for quarantined devices can not pass anything on failure", "remove on_failure, or quarantine_lane")
	}
}

// hosted reports whether a listener of the route's has its host.
func hosted(r *Route, listeners map[string]*Listener) bool {
	for name, l := range listeners {
		if r.Listener != "" && r.Listener != name {
			continue
		}
		for _, h := range l.Hosts {
			if h == r.Host {
				return true
			}
		}
	}
	return false
}

func nearestOf[V any](s string, known map[string]V) string {
	var names []string
	for k := range known {
		names = append(names, k)
	}
	if near := Nearest(s, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// name checks a name that policies and metrics use.
func (d *decoder) name(path, s string, taken bool) {
	if s == "" || len(s) > 64 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || s[0] == '.' {
		d.bad(path, fmt.Sprintf("%q is not a name", s), "a-z, 0-9, '-', '_' and '.', at most 64")
	} else if taken {
		d.bad(path, fmt.Sprintf("%q is there twice", s), "")
	}
}

// prefix checks a path prefix: in canonical form, so that what is written is
// what is matched.
func (d *decoder) prefix(path, p string) {
	if p == "" {
		return
	}
	if p[0] != '/' || strings.Contains(p, "//") || strings.ContainsAny(p, "?#%;\\ ") ||
		strings.Contains(p+"/", "/./") || strings.Contains(p+"/", "/../") {
		d.bad(path, fmt.Sprintf("%q is not a plain path", p), "it begins with a slash and has no escapes, dots, doubled slashes or query")
	}
}

// hostPort reports whether a is host:port with a port number.
func hostPort(a string) bool {
	_, port, err := net.SplitHostPort(a)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= 0 && n <= 65535
}

// validDNS reports whether s is a DNS name in lower case.
func validDNS(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// checkKMS checks where CA keys are kept beside files. Its URI is in the clear, and
// so holds no PIN.
func (d *decoder) checkKMS(c *CA) {
	if c.KMS == "" {
		if c.PIN.Set() {
			d.bad("ca.pin", "it is of ca.kms, which is not set", "")
		}
		return
	}
	rest, ok := strings.CutPrefix(c.KMS, "pkcs11:")
	switch {
	case !ok:
		d.bad("ca.kms", "only pkcs11: is known", "")
	case strings.Contains(rest, "pin-value") || strings.Contains(rest, "pin-source"):
		d.bad("ca.kms", "the PIN does not belong here: ca.pin says where it is", "")
	case c.PIN.sources() != 1:
		d.bad("ca.pin", fmt.Sprintf("exactly one of file, env and credential is needed, not %d", c.PIN.sources()), "")
	}
}
