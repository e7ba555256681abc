package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChecks holds what every rule that is not one of form says. A section is
// put in the place of one of good's, or added.
func TestChecks(t *testing.T) {
	listener := "    hosts: [gateway.hospital.example, 10.0.0.1]\n"
	backend := `{name: ehr, addresses: ["ehr.hospital.example:443"]}`
	route := "{name: fhir, path: /fhir, kind: fhir, backend: ehr}"
	for name, tt := range map[string]struct{ old, new, want string }{
		"version":              {"version: 1", "version: 2", "c.yaml:1:10: version: only version 1 is known"},
		"number as domain":     {"hospital.example\norg", "10.0.0.1\norg", "trust_domain: it is not a DNS name"},
		"empty organisation":   {"organisation: Example Hospital", `organisation: " "`, "organisation: it is empty"},
		"no secret":            {"{passphrase: {file: secrets/pass}}", "{ttl: 24h}", "c.yaml:4:5: ca.passphrase: exactly one of file, env and credential is needed, not 0"},
		"a PIN in the clear":   {"{passphrase: {file: secrets/pass}}", "{passphrase: {file: secrets/pass}, kms: \"pkcs11:token=a?pin-value=1\", pin: {env: P}}", "ca.kms: the PIN does not belong here"},
		"another kind of KMS":  {"{passphrase: {file: secrets/pass}}", "{passphrase: {file: secrets/pass}, kms: \"awskms:region=eu\", pin: {env: P}}", "ca.kms: only pkcs11: is known"},
		"a module without PIN": {"{passphrase: {file: secrets/pass}}", "{passphrase: {file: secrets/pass}, kms: \"pkcs11:token=a\"}", "ca.pin: exactly one of file, env and credential is needed, not 0"},
		"a PIN for nothing":    {"{passphrase: {file: secrets/pass}}", "{passphrase: {file: secrets/pass}, pin: {env: P}}", "ca.pin: it is of ca.kms"},
		"no ca":                {"ca: {passphrase: {file: secrets/pass}}\n", "", "c.yaml:1:1: ca.passphrase: exactly one of"},
		"ttl past its bound":   {"{passphrase:", "{ttl: 20000h, passphrase:", "ca.ttl: it must be more than nothing and at most max_ttl"},
		"class's ttl":          {"{passphrase:", "{class_ttl: {pump: 20000h}, passphrase:", "ca.class_ttl.pump: it must be"},
		"https for a CRL":      {"{passphrase:", "{urls: {crl: \"https://pki.example/ca.crl\"}, passphrase:", "ca.urls.crl: \"https://pki.example/ca.crl\" is not an http URL"},
		"query for OCSP":       {"{passphrase:", "{urls: {ocsp: \"http://pki.example/ocsp?a=b\"}, passphrase:", "ca.urls.ocsp: "},
		"short list":           {"ca:", "revocation: {next_update: 1m}\nca:", "revocation.next_update: it must be from 10m to 720h"},
		"long answer":          {"ca:", "revocation: {ocsp_next_update: 24h}\nca:", "revocation.ocsp_next_update: it must be from 1m to 12h"},
		"no revocation limits": {"ca:", "revocation: {limits: {requests: 0}}\nca:", "revocation.limits: connections, per_address and requests"},
		"revocation idle":      {"ca:", "revocation: {limits: {idle: 0s}}\nca:", "revocation.limits: request and idle"},
		"revocation address":   {"ca:", "revocation: {address: everywhere}\nca:", `revocation.address: "everywhere" is neither host:port nor off`},
		"blocks of nothing":    {"ca:", "audit: {block_records: 0}\nca:", "audit.block_records: it must be from 1 to 1048576"},
		"no flush":             {"ca:", "audit: {flush_time: 0s}\nca:", "audit: block_time and flush_time must be"},
		"small buffer":         {"ca:", "audit: {buffer: 1KiB}\nca:", "audit.buffer: it must be at least 64KiB"},
		"small segments":       {"ca:", "audit: {rotate_size: 1KiB}\nca:", "audit.rotate_size: it must be at least 1MiB"},
		"telemetry address":    {"ca:", "telemetry: {address: everywhere}\nca:", `telemetry.address: "everywhere" is neither host:port nor off`},
		"policy timeout":       {"ca:", "policy: {timeout: 0s}\nca:", "policy: timeout and max_size must be"},
		"no history":           {"ca:", "policy: {history: 0}\nca:", "policy.history: it must be from 1 to 10000"},
		"no bundle":            {"ca:", "policy: {source: bundle}\nca:", "policy.bundle.url: source bundle needs the https URL"},
		"plain bundle server":  {"ca:", "policy: {source: bundle, bundle: {url: \"http://b/x\", key: k}}\nca:", "policy.bundle.url: source bundle needs the https URL"},
		"unsigned bundle":      {"ca:", "policy: {source: bundle, bundle: {url: \"https://b/x\"}}\nca:", "policy.bundle.key: bundles are taken only if they are signed"},
		"key for nothing":      {"ca:", "policy: {source: bundle, bundle: {url: \"https://b/x\", key: k, insecure_unsigned: true}}\nca:", "policy.bundle.insecure_unsigned: it excludes key"},
		"bundle not fetched":   {"ca:", "policy: {bundle: {url: \"https://b/x\"}}\nca:", "policy.bundle.url: no bundle is fetched, because policy.source is directory"},
		"bundle all the time":  {"ca:", "policy: {source: bundle, bundle: {url: \"https://b/x\", key: k, interval: 1ms}}\nca:", "policy.bundle.interval: it must be at least 1s"},
		"pass, clinical":       {route, "{name: fhir, path: /fhir, kind: fhir, backend: ehr, on_failure: pass}", "routes[0].on_failure: pass is for routes of class life-safety, and this one is of class clinical (remove on_failure, or say class: life-safety"},
		"pass, administrative": {route, "{name: fhir, path: /fhir, kind: fhir, backend: ehr, class: administrative, on_failure: pass}", "routes[0].on_failure: pass is for routes of class life-safety, and this one is of class administrative"},
		"pass, no FHIR":        {route, "{name: x, path: /x, backend: ehr, class: life-safety, on_failure: pass}", "c.yaml:10:71: routes[0].on_failure: pass is for routes of kind fhir: of anything else nobody knows whether it is a report (remove on_failure, or say kind: fhir"},
		"pass in a lane":       {route, "{name: fhir, path: /fhir, kind: fhir, backend: ehr, class: life-safety, on_failure: pass, quarantine_lane: true}", "routes[0].on_failure: a lane for quarantined devices can not pass anything on failure"},
		"no such on_failure":   {route, "{name: fhir, path: /fhir, kind: fhir, backend: ehr, class: life-safety, on_failure: allow}", "routes[0].on_failure"},
		"a lane that observes": {route, "{name: fhir, path: /fhir, kind: fhir, backend: ehr, quarantine_lane: true, mode: observe}", "routes[0].quarantine_lane: a lane for quarantined devices can not be a route that only observes"},
		"no listeners":         {"listeners:\n  - name: devices\n    address: 127.0.0.1:8443\n" + listener, "listeners: []\n", "listeners: there are none"},
		"same address":         {"routes:", "  - {name: b, address: 127.0.0.1:8443, hosts: [x]}\nroutes:", "listeners[1].address: another listener has the same address"},
		"bad name":             {"name: devices", "name: The Devices", `listeners[0].name: "The Devices" is not a name (a-z, 0-9, '-', '_' and '.', at most 64)`},
		"no hosts":             {listener, "    hosts: []\n", "listeners[0].hosts: there are none"},
		"upper-case host":      {"gateway.hospital", "Gateway.hospital", `listeners[0].hosts[0]: "Gateway.hospital.example" is neither a DNS name in lower case nor an IP address`},
		"wildcard host":        {"gateway.hospital.example", `"*.hospital.example"`, `listeners[0].hosts[0]: "*.hospital.example" is neither a DNS name`},
		"proxy range":          {listener, listener + "    proxy_protocol: {from: [10.0.0.0/40]}\n", `listeners[0].proxy_protocol.from[0]: "10.0.0.0/40" is neither an address nor a CIDR range`},
		"acme without CA":      {listener, listener + "    certificate: {source: acme}\n", "listeners[0].certificate.directory: acme needs the https URL"},
		"acme in plain HTTP":   {listener, listener + "    certificate: {source: acme, directory: \"http://ca/d\"}\n", "acme needs the https URL"},
		"acme's HTTP address":  {listener, listener + "    certificate: {source: acme, directory: \"https://ca/d\", http_address: x}\n", `http_address: "x" is not host:port`},
		"half an account":      {listener, listener + "    certificate: {source: acme, directory: \"https://ca/d\", account: {key_id: x}}\n", "certificate.account: key_id and hmac_key go together"},
		"files without key":    {listener, listener + "    certificate: {source: files, certificate: a}\n", "listeners[0].certificate: files needs both certificate and key"},
		"moment of a cert":     {listener, listener + "    certificate: {ttl: 1s}\n", "listeners[0].certificate.ttl: it must be at least 1m"},
		"no connections":       {listener, listener + "    limits: {connections: 0}\n", "listeners[0].limits: connections, per_device"},
		"more strangers":       {listener, listener + "    limits: {connections: 8, per_address: 9}\n", "listeners[0].limits.per_address: it must be at most 8"},
		"streams":              {listener, listener + "    limits: {streams: 10001}\n", "streams (to 10000) must be at least 1"},
		"waiting for ever":     {listener, listener + "    limits: {idle: 0s}\n", "there is no waiting for ever"},
		"small head":           {listener, listener + "    limits: {head_bytes: 1KiB}\n", "listeners[0].limits.head_bytes: it must be from 4KiB to 1MiB"},
		"large decision":       {listener, listener + "    limits: {decision_bytes: 1GiB}\n", "listeners[0].limits.decision_bytes: it must be from 1KiB to 256MiB"},
		"size without unit":    {listener, listener + "    limits: {head_bytes: 32K}\n", `listeners[0].limits.head_bytes: "32K" is not a size (write 64KiB, 4MiB or 1GiB)`},
		"negative number":      {listener, listener + "    limits: {streams: -1}\n", `listeners[0].limits.streams: "-1" is not a whole number from 0`},
		"yes for true":         {listener, listener + "    tls: {tickets: yes}\n", `listeners[0].tls.tickets: "yes" is neither true nor false`},
		"no addresses":         {backend, "{name: ehr, addresses: []}", "backends[0].addresses: there are none"},
		"two trusts":           {backend, `{name: ehr, addresses: ["a:1"], ca_file: x, system_roots: true}`, "backends[0].system_roots: ca_file and system_roots exclude each other"},
		"half a pair":          {backend, `{name: ehr, addresses: ["a:1"], key: x}`, "backends[0].certificate: certificate and key go together"},
		"pin of hex":           {backend, `{name: ehr, addresses: ["a:1"], pins: ["sha256/abcd"]}`, "backends[0].pins[0]: it is not sha256/ and 32 bytes in base64"},
		"insecure HTTP/2":      {backend, `{name: ehr, addresses: ["a:1"], insecure: true, http2: true}`, "backends[0].insecure: plain HTTP has no certificates and no HTTP/2"},
		"base path":            {backend, `{name: ehr, addresses: ["a:1"], base_path: r4}`, `backends[0].base_path: "r4" is not a plain path`},
		"no timeout":           {backend, `{name: ehr, addresses: ["a:1"], timeout: 0s}`, "backends[0]: connect and timeout must be"},
		"storm of retries":     {backend, `{name: ehr, addresses: ["a:1"], retries: 100}`, "backends[0].retries: it must be at most 10"},
		"more than there is":   {backend, `{name: ehr, addresses: ["a:1"], max_connections: 8, max_per_device: 9}`, "backends[0].max_per_device: it must be at most 8"},
		"less than nothing":    {backend, `{name: ehr, addresses: ["a:1"], max_per_device: -1}`, `backends[0].max_per_device: "-1" is not a whole number from 0`},
		"nothing to send over": {backend, `{name: ehr, addresses: ["a:1"], max_connections: 0}`, "backends[0].max_connections: it must be at least 1"},
		"never unhealthy":      {backend, `{name: ehr, addresses: ["a:1"], health: {failures: 0}}`, "backends[0].health: failures must be at least 1"},
		"port past the last":   {backend, `{name: ehr, addresses: ["a:65536"]}`, `backends[0].addresses[0]: "a:65536" is not host:port`},
		"no such listener":     {route, "{name: fhir, listener: device, backend: ehr}", `routes[0].listener: there is no listener "device" (did you mean "devices"?)`},
		"host of nobody":       {route, "{name: fhir, host: other.example, backend: ehr}", `routes[0].host: no listener has the host "other.example"`},
		"same place":           {route, "{name: a, path: /x, backend: ehr}\n  - {name: b, path: /x/, backend: ehr}", "routes[1].path: another route has the same listener, host and path"},
		"escaped path":         {route, "{name: a, path: /%66hir, backend: ehr}", `routes[0].path: "/%66hir" is not a plain path`},
		"map of lists":         {"{passphrase:", "{class_ttl: [1], passphrase:", "ca.class_ttl: keys with values are expected here, not a list"},
		"class twice":          {"{passphrase:", "{class_ttl: {a: 1h, a: 2h}, passphrase:", "ca.class_ttl.a: the key is there twice"},
		"merge key":            {"version: 1\n", "version: 1\n<<: {a: b}\n", `unknown key "<<"`},
		"misspelt deep key":    {listener, listener + "    limits: {handshakes: 5s}\n", `listeners[0].limits: unknown key "handshakes" (did you mean "handshake"?)`},
		"unlike anything":      {"version: 1\n", "version: 1\nxyzzy: 1\n", "known are version, trust_domain, organisation"},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if text == good {
			t.Errorf("%s: the test changes nothing", name)
		}
		_, err := Parse("c.yaml", []byte(text))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", name, err, tt.want)
			continue
		}
		for _, p := range e.Problems {
			if p.Line == 0 {
				t.Errorf("%s: no place in %q", name, p)
			}
		}
	}
}

// TestShippedExamplesLoad: every configuration in the repository is one.
func TestShippedExamplesLoad(t *testing.T) {
	files, err := filepath.Glob("../../docker/*anteroom*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, f := range files {
		if _, err := Load(f); err != nil {
			t.Error(err)
		}
	}
}

func TestFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ data, want string }{
		"large":  {strings.Repeat("# comment\n", maxFile/10+1), "larger than 1048576 bytes"},
		"binary": {"\x00\x01\x02", "control characters are not allowed"},
		"list":   {"- a\n- b\n", "keys with values are expected here, not a list"},
		"text":   {"hello\n", "keys with values are expected here, not a single value"},
		"bomb":   {"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "unknown key"},
		"deep":   {strings.Repeat("[", 20000), "depth"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory was read")
	}
}

func TestNearest(t *testing.T) {
	known := []string{"address", "protocol", "hosts", "certificate", "tls"}
	for s, want := range map[string]string{
		"adress": "address", "ADDRESS": "address", "host": "hosts", "certifcate": "certificate", "tsl": "tls",
		"protcool": "protocol", "xyzzy": "", "": "", "a": "",
	} {
		if got := Nearest(s, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]Size{"0": 0, "4096": 4096, "512B": 512, "64KiB": 64 << 10, "4MiB": 4 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40} {
		got, err := parseSize(s)
		if err != nil || got != want {
			t.Errorf("%s: %d %v", s, got, err)
		}
		if again, err := parseSize(got.String()); err != nil || again != got {
			t.Errorf("%s is written as %s", s, got)
		}
	}
	for _, s := range []string{"", "KiB", "-1", "1.5MiB", "1 MiB", "64KB", "9223372036854775807KiB", "99999999999999999999"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}
