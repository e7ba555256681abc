package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const good = `version: 1
trust_domain: hospital.example
organisation: Example Hospital
ca: {passphrase: {file: secrets/pass}}
listeners:
  - name: devices
    address: 127.0.0.1:8443
    hosts: [gateway.hospital.example, 10.0.0.1]
routes:
  - {name: fhir, path: /fhir, kind: fhir, backend: ehr}
backends:
  - {name: ehr, addresses: ["ehr.hospital.example:443"]}
`

func TestDefaultsArePutIn(t *testing.T) {
	f, err := Parse("/etc/anteroom/anteroom.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	l := f.Listeners[0]
	if f.StateDir != "/etc/anteroom/state" || f.Audit.Dir != "/etc/anteroom/state/audit" || f.CA.Passphrase.File != "/etc/anteroom/secrets/pass" {
		t.Errorf("paths %q %q %q", f.StateDir, f.Audit.Dir, f.CA.Passphrase.File)
	}
	if l.Certificate.Source != "embedded" || l.Certificate.TTL.D() != 720*time.Hour || !l.TLS.Tickets || l.Limits.HeadBytes != 32<<10 ||
		f.Audit.BlockRecords != 16384 || f.Backends[0].Health.Failures != 3 || f.Routes[0].Class != "clinical" {
		t.Errorf("defaults are missing: %+v", f)
	}
}

func TestRelativePathsAreRelativeToTheFile(t *testing.T) {
	for path, want := range map[string][3]string{
		"gw/anteroom.yaml":    {"gw/state", "gw/state/audit", "gw/secrets/pass"},
		"anteroom.yaml":       {"state", "state/audit", "secrets/pass"},
		"/etc/x/anteroom.yml": {"/etc/x/state", "/etc/x/state/audit", "/etc/x/secrets/pass"},
	} {
		f, err := Parse(path, []byte(good))
		if err != nil {
			t.Fatal(err)
		}
		if got := [3]string{f.StateDir, f.Audit.Dir, f.CA.Passphrase.File}; got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}

// TestProblems holds what each mistake is told: where, what, and what to do.
func TestProblems(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"misspelt key":        {"address: 127", "adress: 127", `c.yaml:7:5: listeners[0]: unknown key "adress" (did you mean "address"?)`},
		"missing key":         {"organisation: Example Hospital\n", "", `c.yaml:1:1: the key "organisation" is missing (Name of the organisation, as it appears in certificates)`},
		"repeated key":        {"version: 1\n", "version: 1\nversion: 1\n", `c.yaml:2:1: the key "version" is there twice`},
		"misspelt choice":     {"kind: fhir", "kind: fihr", `routes[0].kind: "fihr" is not known here (did you mean "fhir"?)`},
		"a list for a value":  {"address: 127.0.0.1:8443", "address: [a]", `c.yaml:7:14: listeners[0].address: text is expected here, not a list`},
		"nothing":             {"organisation: Example Hospital", "organisation:", `organisation: text is expected here, not nothing`},
		"no such backend":     {"backend: ehr", "backend: her", `routes[0].backend: there is no backend "her" (did you mean "ehr"?)`},
		"upper-case domain":   {"hospital.example\norg", "Hospital.example\norg", `c.yaml:2:15: trust_domain: it is not a DNS name in lower case`},
		"URL as address":      {`"ehr.hospital.example:443"`, `"https://ehr:443"`, `is not host:port (without https://)`},
		"two secrets":         {"{file: secrets/pass}", "{file: a, env: B}", `c.yaml:4:18: ca.passphrase: exactly one of file, env and credential is needed, not 2`},
		"alias":               {"address: 127.0.0.1:8443", "address: &a 127.0.0.1:8443", `anchors and aliases are not supported`},
		"tab":                 {"version: 1\n", "version: 1\n\tx: 1\n", `c.yaml:2:1: found a tab character that violates indentation`},
		"two documents":       {"version: 1\n", "version: 1\n---\nversion: 1\n", `more than one YAML document`},
		"dotted path":         {"path: /fhir", "path: /a/../fhir", `routes[0].path: "/a/../fhir" is not a plain path`},
		"same name":           {"backends:\n", "backends:\n  - {name: ehr, addresses: [\"a:1\"]}\n", `"ehr" is there twice`},
		"insecure with CA":    {`addresses: ["ehr`, `insecure: true, ca_file: x, addresses: ["ehr`, `backends[0].insecure: plain HTTP has no certificates`},
		"time without a unit": {"- name: devices", "- name: devices\n    limits: {idle: 90}", `listeners[0].limits.idle: "90" is not a time span (write 90s, 10m or 720h)`},
		"time zone":           {"version: 1\n", "version: 1\nfacility: {timezone: Mars/Base}\n", `facility.timezone: "Mars/Base" is not an IANA time zone`},
		"empty":               {good, "", `c.yaml: the file is empty (anteroom init writes one that works)`},
	} {
		text := strings.Replace(good, tt.old, tt.new, 1)
		if text == good {
			t.Errorf("%s: the test changes nothing", name)
		}
		_, err := Parse("c.yaml", []byte(text))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", name, err, tt.want)
		}
	}
}

func TestEverythingIsReportedAtOnce(t *testing.T) {
	_, err := Parse("c.yaml", []byte("version: 1\nfoo: 1\nbar: 2\nlisteners: 3\n"))
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 5 {
		t.Errorf("got %v", err)
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Setenv("ANTEROOM_TEST_SECRET", "from env")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write("cred", "from systemd\n", 0o440)
	for want, s := range map[string]Secret{
		"from file":             {File: write("a", "from file\n", 0o600)},
		"from env":              {Env: "ANTEROOM_TEST_SECRET"},
		"from systemd":          {Credential: "cred"},
		"can be read by others": {File: write("b", "x", 0o644)},
		"is empty":              {File: write("c", "\n", 0o600)},
		"is not set":            {Env: "ANTEROOM_TEST_UNSET"},
		"is not a plain name":   {Credential: "../a"},
		"exactly one of":        {},
		"no such file":          {File: filepath.Join(dir, "gone")},
		"is larger than":        {File: write("d", strings.Repeat("x", 5000), 0o600)},
	} {
		got, err := s.Read()
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %s", s, err, want)
			}
			continue
		}
		if string(got) != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("listeners: [{}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg, err := Parse("c.yaml", b)
		if (cfg == nil) == (err == nil) {
			t.Errorf("%v and %v", cfg, err)
		}
	})
}
