package seed

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// initialised returns the configuration file of a fresh gateway.
func initialised(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const pass = "a passphrase for one test"
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Init(t.Context(), ca.InitConfig{
		Dir: filepath.Join(dir, "state", admin.CADir), TrustDomain: "bench.example", Organisation: "Bench", Passphrase: []byte(pass),
	}); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "anteroom.yaml")
	for path, text := range map[string]string{
		filepath.Join(dir, "pass"): pass,
		conf: `version: 1
trust_domain: bench.example
organisation: Bench
ca: {passphrase: {file: pass}}
listeners: [{name: devices, address: "127.0.0.1:8443", hosts: [localhost]}]
`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return conf
}

func TestSeededDevicesAreInTheRegistryWithTheirCertificates(t *testing.T) {
	conf := initialised(t)
	out := filepath.Join(t.TempDir(), "devices.json")
	const others = 7 // more than two batches of the size below
	for _, c := range []Config{
		{Config: conf, Class: "patient-monitor", Prefix: "fleet-", Count: 3, Out: out},
		{Config: conf, Class: "patient-monitor", Prefix: "fleet-", First: 3, Count: 2, Out: out},
		{Config: conf, Class: "infusion-pump", Prefix: "other-", Count: others},
	} {
		c.Batch = 3
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var errs strings.Builder
		if code := Main(t.Context(), string(text), &errs); code != 0 {
			t.Fatalf("%+v: exit %d: %s", c, code, errs.String())
		}
	}
	st, err := bolt.Open(filepath.Join(filepath.Dir(conf), "state", admin.StoreFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	reg, err := device.Open(context.Background(), st, device.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := reg.Counts()[device.Active]; n != 5+others {
		t.Errorf("%d devices are active, want %d", n, 5+others)
	}
	revisions := map[uint64]bool{}
	for _, rec := range reg.List(device.Filter{}) {
		if revisions[rec.Revision] {
			t.Fatalf("revision %d is given twice", rec.Revision)
		}
		revisions[rec.Revision] = true
	}
	certs, err := fleet.ReadDevices(out, 5)
	if err != nil {
		t.Fatal(err)
	}
	if len(certs[4].Certificate) != 2 {
		t.Errorf("a device's chain has %d certificates, want 2", len(certs[4].Certificate))
	}
	if _, err := fleet.ReadDevices(out, 6); err == nil {
		t.Error("more devices are read than there are")
	}
}

func TestWhatCanNotBeSeededIsSaid(t *testing.T) {
	for _, bad := range []string{"{", `{"Config":"/nowhere"}`} {
		var errs strings.Builder
		if code := Main(t.Context(), bad, &errs); code != 1 || !strings.Contains(errs.String(), "seed:") {
			t.Errorf("%q: exit %d, %q", bad, code, errs.String())
		}
	}
}
