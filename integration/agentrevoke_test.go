package integration

import (
	"fmt"
	"net/http"
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
