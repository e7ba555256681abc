package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestALoansEndIsEnforced: at its moment a device that was lent so is cut off, its
// open connection too, and one that was lent otherwise is home again; nobody had
// to do anything.
func TestALoansEndIsEnforced(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, "")
	strict, mild := h.Enroll("monitor-1", "patient-monitor"), h.Enroll("monitor-2", "patient-monitor")
	client := h.Client(strict)
	if status := post(client, h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Fatalf("before the loan: %d", status)
	}
	h.Must("device", "loan", "monitor-2", "--to", "Ward 5", "--location", "ward-5", "--for", "2s")
	h.Must("device", "loan", "monitor-1", "--to", "St. Elsewhere", "--for", "2s", "--then-quarantine")
	rig.Eventually(t, "the loan to end in quarantine", func() bool {
		return strings.Contains(h.Must("device", "show", "monitor-1"), "(its loan is over)")
	})
	rig.Eventually(t, "the other loan to end at home", func() bool {
		return !strings.Contains(h.Must("device", "show", "monitor-2"), "ward-5")
	})
	if status := post(client, h.URL("/fhir/Observation")); status == http.StatusCreated {
		t.Error("a device whose loan is over is answered over its open connection")
	}
	if status := post(h.Client(mild), h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Errorf("a device that is home again: %d", status)
	}
	h.recorded("device.loan-over", 2)
	h.Must("device", "release", "monitor-1")
	if status := post(h.Client(strict), h.URL("/fhir/Observation")); status != http.StatusCreated {
		t.Errorf("after its release: %d", status)
	}
}
