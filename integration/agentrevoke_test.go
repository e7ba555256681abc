package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestARunningAgentTakesAnotherCertificateUp: a device that was revoked by mistake is
// enrolled anew, and the agent in front of it goes on as that, without a restart.
func TestARunningAgentTakesAnotherCertificateUp(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, "")
	token, root := h.tokenFor("monitor-1", "patient-monitor")
	port := rig.FreeAddr(t)
	c := newCompanion(t, fmt.Sprintf(`state_dir: state
enrolment: {url: %q}
forward:
  - {name: fhir, listen: %q, device: 127.0.0.1, protocol: http, gateway: %q, server_name: localhost, connect: 2s}
`, h.url(""), port, h.Addr))
	c.must(token, "enrol", "--root", root)
	c.start()
	post := func() int {
		resp, err := http.Post("http://"+port+"/fhir/Observation", "application/fhir+json", strings.NewReader(observation))
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if status := post(); status != http.StatusCreated {
		t.Fatalf("at first: %d\n%s", status, c.Output())
	}
	h.Must("device", "revoke", "monitor-1", "--yes")
	rig.Eventually(t, "the device to be out", func() bool { return post() == http.StatusServiceUnavailable })
	token = h.token("monitor-1", "--again")
	if out, err := c.command(token, "enrol", "--root", root); err == nil || !strings.Contains(out, "--force") {
		t.Errorf("it enrols anew without a word: %v %s", err, out)
	}
	c.must(token, "enrol", "--root", root, "--force")
	rig.Eventually(t, "the device to be back", func() bool { return post() == http.StatusCreated })
}

// TestABoxThatIsMovedDeliversNothingAsTheOtherDevice: enrolled anew as another while
// it runs, with messages of the former in its store.
func TestABoxThatIsMovedDeliversNothingAsTheOtherDevice(t *testing.T) {
	t.Parallel()
	c := newWard(t)
	c.start()
	say := func(id string) {
		t.Helper()
		conn, err := net.Dial("tcp", c.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "\x0bMSH|^~\\&|MON|ICU|HIS|HOSP|||ORU^R01^ORU_R01|%s|P|2.5.1|||AL|NE\r\x1c\r", id)
		if heard, err := bufio.NewReader(conn).ReadString(0x1c); err != nil || !strings.Contains(heard, "MSA|CA|"+id) {
			t.Fatalf("%q %v", heard, err)
		}
	}
	say("of-1")
	token, _ := c.h.tokenFor("monitor-2", "patient-monitor")
	c.must(token, "enrol", "--root", c.root, "--force")
	c.e.start()
	defer c.e.stop()
	<-c.Done()
	if !strings.Contains(c.Output(), "this is monitor-2 now, and was monitor-1") {
		t.Errorf("it ends and does not say why: %s", c.Output())
	}
	c.start() // as systemd does
	say("of-2")
	rig.Eventually(t, "the other's message to arrive", func() bool { return len(c.e.received()) > 0 })
	if got := c.e.received(); !slices.Equal(got, []string{"of-2"}) {
		t.Errorf("%q arrived from monitor-2", got)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "state", "store", "hl7", "queue.of-monitor-1")); err != nil || !strings.Contains(c.Output(), "is not delivered") {
		t.Errorf("what was stored: %v\n%s", err, c.Output())
	}
}
