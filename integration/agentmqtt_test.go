package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestWhatADevicePublishesOutlivesItsAgentAndItsBroker: mosquitto's client is the
// device, without TLS, and mosquitto itself, which knows who comes by the
// certificate, stands for a listener of the gateway that speaks MQTT.
func TestWhatADevicePublishesOutlivesItsAgentAndItsBroker(t *testing.T) {
	peers.Need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	t.Parallel()
	h := newEnrolling(t, "")
	token, root := h.tokenFor("pump-1", "infusion-pump")
	pki := peers.NewPKI(t)
	listen, plain, far := rig.FreeAddr(t), rig.FreeAddr(t), rig.FreeAddr(t)
	c := newCompanion(t, fmt.Sprintf(`state_dir: state
enrolment: {url: %q}
forward:
  - name: vitals
    listen: %q
    device: 127.0.0.1
    protocol: mqtt
    gateway: %q
    server_name: localhost
    ca_file: %q
    store: {bytes: 1MiB, message: 64KiB}
`, h.url(""), listen, far, pki.CAFile))
	c.must(token, "enrol", "--root", root)

	port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	// The second listener is for the test, which has to hear what arrives.
	text := fmt.Sprintf(`per_listener_settings true
persistence true
persistence_location %s/
user root
listener %s 127.0.0.1
cafile %s
certfile %s
keyfile %s
require_certificate true
use_subject_as_username true
acl_file %s
listener %s 127.0.0.1
allow_anonymous true
`, filepath.Dir(conf), port(far), h.RootFile(), pki.CertFile, pki.KeyFile, conf+".acl", port(plain))
	for name, text := range map[string]string{conf: text, conf + ".acl": "user CN=pump-1,O=Test Hospital\ntopic write vitals/#\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func() *peers.Process {
		p := peers.Start(t, filepath.Dir(conf), nil, "mosquitto", "-c", conf)
		p.Ready(func() bool {
			conn, err := net.Dial("tcp", plain)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		return p
	}
	broker := start()
	// A session that the broker keeps for the hearer, so that nothing is missed
	// while it is not there. By quality 1: of 2 it would see those later that the
	// broker sends in several steps.
	hear := []string{"-h", "127.0.0.1", "-p", port(plain), "-i", "hearer", "-c", "-q", "1", "-t", "vitals/#"}
	if out, err := run(t, t.TempDir(), "mosquitto_sub", append(hear, "-E")...); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	c.start()
	var want []string
	publish := func(n int) {
		t.Helper()
		for range n {
			text := fmt.Sprintf("value-%02d", len(want))
			out, err := run(t, t.TempDir(), "mosquitto_pub", "-V", "311", "-h", "127.0.0.1", "-p", port(listen), "-q", fmt.Sprint(1+len(want)%2), "-t", "vitals/pump-1", "-m", text)
			if err != nil {
				t.Fatalf("mosquitto_pub: %v\n%s%s", err, out, c.Output())
			}
			want = append(want, text)
		}
	}
	publish(4)
	broker.Stop()
	publish(4)
	c.Kill()
	c.start()
	publish(4)
	c.Kill()
	broker = start()
	c.start()
	publish(4)
	rig.Eventually(t, "everything to be published", func() bool { return c.status().Entries[0].Stored.Messages == 0 })
	out, err := run(t, t.TempDir(), "mosquitto_sub", append(hear, "-C", fmt.Sprint(len(want)), "-W", "30")...)
	if err != nil {
		t.Fatalf("mosquitto_sub: %v\n%s\n%s", err, out, broker.Output())
	}
	// Those of quality 1 may come again; those of 2 may not.
	got := strings.Fields(out)
	if !slices.Equal(slices.Compact(slices.Clone(got)), want) {
		t.Errorf("arrived: %q", got)
	}
	for i, text := range want {
		if n := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != text })); i%2 == 1 && n != 1 {
			t.Errorf("%s of quality 2 came %d times", text, n)
		}
	}
	if out, _ := run(t, t.TempDir(), "mosquitto_sub", "-h", "127.0.0.1", "-p", port(listen), "-t", "#", "-C", "1", "-W", "5"); !strings.Contains(out, "denied") {
		t.Errorf("the device can subscribe: %s", out)
	}
}
