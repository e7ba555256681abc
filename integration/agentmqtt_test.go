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

// publishing is an agent in front of a device that speaks MQTT: mosquitto's client,
// without TLS. Mosquitto itself, which knows who comes by the certificate, stands for
// a listener of the gateway that speaks MQTT.
type publishing struct {
	*companion
	listen, plain string // ports: of the agent, and of the broker for the test
	start         func() *peers.Process
}

func portOf(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }

func newPublishing(t *testing.T) *publishing {
	t.Helper()
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
`, filepath.Dir(conf), portOf(far), h.RootFile(), pki.CertFile, pki.KeyFile, conf+".acl", portOf(plain))
	for name, text := range map[string]string{conf: text, conf + ".acl": "user CN=pump-1,O=Test Hospital\ntopic write vitals/#\ntopic read orders/#\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &publishing{c, portOf(listen), portOf(plain), func() *peers.Process {
		p := peers.Start(t, filepath.Dir(conf), nil, "mosquitto", "-c", conf)
		p.Ready(func() bool {
			conn, err := net.Dial("tcp", plain)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		return p
	}}
}

// TestWhatADevicePublishesOutlivesItsAgentAndItsBroker.
func TestWhatADevicePublishesOutlivesItsAgentAndItsBroker(t *testing.T) {
	peers.Need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	t.Parallel()
	p := newPublishing(t)
	c, broker := p.companion, p.start()
	// A session that the broker keeps for the hearer, so that nothing is missed
	// while it is not there. By quality 1: of 2 it would see those later that the
	// broker sends in several steps.
	hear := []string{"-h", "127.0.0.1", "-p", p.plain, "-i", "hearer", "-c", "-q", "1", "-t", "vitals/#"}
	if out, err := run(t, t.TempDir(), "mosquitto_sub", append(hear, "-E")...); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	c.start()
	var want []string
	publish := func(n int) {
		t.Helper()
		for range n {
			text := fmt.Sprintf("value-%02d", len(want))
			out, err := run(t, t.TempDir(), "mosquitto_pub", "-V", "311", "-h", "127.0.0.1", "-p", p.listen, "-q", fmt.Sprint(1+len(want)%2), "-t", "vitals/pump-1", "-m", text)
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
	broker = p.start()
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
}

// TestADeviceOfVersion5PublishesAndHears: what it publishes while the broker is away
// arrives with all that is said of it, and what it is subscribed to reaches it
// again when the broker is back; an older device beside it likewise.
func TestADeviceOfVersion5PublishesAndHears(t *testing.T) {
	peers.Need(t, "mosquitto", "mosquitto_pub", "mosquitto_sub")
	t.Parallel()
	p := newPublishing(t)
	broker := p.start()
	p.companion.start()
	devices := map[string]*peers.Process{}
	for _, version := range []string{"5", "311"} {
		devices[version] = peers.Start(t, t.TempDir(), nil, "mosquitto_sub", "-V", version, "-h", "127.0.0.1", "-p", p.listen, "-i", "pump-v"+version, "-q", "1", "-t", "orders/#")
	}
	defer func() {
		if t.Failed() {
			t.Logf("%s\n%s\n%s\n%s", devices["5"].Output(), devices["311"].Output(), p.Output(), broker.Output())
		}
	}()
	hears := func(what string) {
		t.Helper()
		rig.Eventually(t, "the devices to hear "+what, func() bool {
			_, _ = run(t, t.TempDir(), "mosquitto_pub", "-h", "127.0.0.1", "-p", p.plain, "-q", "1", "-t", "orders/1", "-m", what)
			return strings.Contains(devices["5"].Output(), what) && strings.Contains(devices["311"].Output(), what)
		})
	}
	hears("begin")
	// Beside a session that is kept for the test.
	hear := []string{"-V", "5", "-h", "127.0.0.1", "-p", p.plain, "-i", "hearer", "-c", "-x", "3600", "-q", "1", "-t", "vitals/#"}
	if out, err := run(t, t.TempDir(), "mosquitto_sub", append(hear, "-E")...); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	broker.Stop()
	out, err := run(t, t.TempDir(), "mosquitto_pub", "-V", "5", "-h", "127.0.0.1", "-p", p.listen, "-q", "2", "-t", "vitals/1", "-m", "away",
		"-D", "publish", "user-property", "unit", "mmHg", "-D", "publish", "content-type", "text/plain", "-D", "publish", "message-expiry-interval", "3600")
	if err != nil {
		t.Fatalf("mosquitto_pub: %v\n%s%s", err, out, p.Output())
	}
	p.Kill()
	p.companion.start()
	p.start()
	if out, err := run(t, t.TempDir(), "mosquitto_sub", append(hear, "-C", "1", "-W", "50", "-F", "%p %P %C")...); err != nil || strings.TrimSpace(out) != "away unit:mmHg text/plain" {
		t.Errorf("arrived: %q %v\n%s", out, err, p.Output())
	}
	hears("again")
}
