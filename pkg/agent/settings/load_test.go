package settings

import (
	"strings"
	"testing"
)

const good = `enrolment: {url: "https://gateway.hospital.example:8444", root: "6D:7d6781daace493afd5e920363f6b4b67ed993d6dc17df8a9660fa22d51425a"}
state_dir: state
forward:
  - {name: fhir, listen: "192.168.50.1:8080", device: 192.168.50.2, protocol: http, gateway: "gateway.hospital.example:8443"}
  - name: hl7
    listen: 192.168.50.1:2575
    device: 192.168.50.2
    protocol: mllp
    gateway: gateway.hospital.example:2575
    store: {bytes: 64MiB}
reverse:
  - {name: web, listen: "0.0.0.0:8445", device: "192.168.50.2:80", pins: [sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=]}
`

func TestAConfigurationIsCompleted(t *testing.T) {
	f, err := Parse("/etc/anteroom/agent.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if f.StateDir != "/etc/anteroom/state" || f.Forward[0].ServerName != "gateway.hospital.example" || f.Forward[0].Store.On() || !f.Forward[1].Store.On() {
		t.Errorf("%+v", f)
	}
}

func TestWhatIsWrongIsSaidWithItsPlace(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"state_dir: state", "statedir: state", `agent.yaml:2:1: unknown key "statedir" (did you mean "state_dir"?)`},
		{"protocol: http", "protocol: htpp", `agent.yaml:4:79: forward[0].protocol: "htpp" is not known here (did you mean "http"?)`},
		{"device: 192.168.50.2\n", "device: 192.168.50.0/24\n", `agent.yaml:7:13: forward[1].device: "192.168.50.0/24" is not the address of one device`},
		{"device: 192.168.50.2\n", "device: 0.0.0.0\n", "forward[1].device"},
		{"protocol: mllp", "protocol: dicom", "forward[1].store: what is dicom is not stored"},
		{"protocol: http, gateway: \"gateway.hospital.example:8443\"}", "protocol: mqtt, gateway: \"g:1\", store: {bytes: 1MiB}}\n  - {name: b, listen: \"1.1.1.1:1\", device: 1.1.1.2, protocol: mqtt, gateway: \"g:1\", store: {bytes: 1MiB}}", "forward[1].store: one entry of mqtt can have a store"},
		{"listen: 192.168.50.1:2575", "listen: 192.168.50.1:8080", "two entries listen on 192.168.50.1:8080"},
		{"listen: 192.168.50.1:2575", "listen: here:2575", "does not begin with an IP address"},
		{"listen: 192.168.50.1:2575", "listen: 192.168.50.1:0", "is not a host and a port"},
		{"name: hl7", "name: fhir", `two entries have the name "fhir"`},
		{"name: hl7", "name: ../hl7", "is not a name"},
		{"https://", "http://", "enrolment.url"},
		{"state_dir: state", "key: tpm", `agent.yaml:2:6: key: "tpm" is no place for a key (write file, or tpm:/dev/tpmrm0)`},
		{"state_dir: state", "key: tpm:dev/tpmrm0", "is no place for a key"},
		{"state_dir: state", "key: pkcs11:token=x", "is no place for a key"},
		{"6D:", "6D", "enrolment.root"},
		{"sha256/47D", "sha256/48", "reverse[0].pins[0]"},
		{"pins: [sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=]", "pins: []", "without a pin nobody gets in"},
		{"bytes: 64MiB", "bytes: 64KiB", "forward[1].store.message"},
		{"bytes: 64MiB", "bytes: 64MiB, tries: 0", "forward[1].store.tries"},
		{"8443\"}", "8443\", connections: 100000}", "forward[0].connections: from 1 to 1024"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if c.old == "6D:" {
			text = strings.Replace(good, c.old, "6", 1)
		}
		if text == good {
			t.Fatalf("%q is not there", c.old)
		}
		_, err := Parse("agent.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %v, want %s", c.new, c.old, err, c.want)
		}
	}
	if _, err := Parse("agent.yaml", []byte("enrolment: {url: 'https://h:1'}\n")); err == nil || !strings.Contains(err.Error(), "nothing to do") {
		t.Errorf("an empty configuration: %v", err)
	}
}
