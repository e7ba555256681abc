package enrol

import (
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestADeviceWhoseLoanEndedIsGivenNoCertificate: it is cut off by the clock, and not
// only when somebody has noticed.
func TestADeviceWhoseLoanEndedIsGivenNoCertificate(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	iss, err := d.operator("pump-1", request(t, newKey(t, ca.P256), ""))
	if err != nil {
		t.Fatal(err)
	}
	now := d.Registrar.cfg.Clock()
	_, err = d.Registrar.cfg.Devices.Lend(t.Context(), "pump-1", "", "", device.Loan{To: "clinic", Until: now.Add(time.Hour), ThenQuarantine: true})
	if err != nil {
		t.Fatal(err)
	}
	ask := map[string]func() (*Issued, error){
		"with its certificate": func() (*Issued, error) {
			return d.Enrol(t.Context(), &Request{Way: EST, CSR: request(t, newKey(t, ca.P256), ""), Proof: Certificate{iss.Chain[0]}})
		},
		"with a token": func() (*Issued, error) { return d.by(d.token("pump-1"), request(t, newKey(t, ca.P256), "")) },
	}
	for what, ask := range ask {
		if _, err := ask(); err != nil {
			t.Errorf("%s, while it is on loan: %v", what, err)
		}
	}
	d.ahead = 2 * time.Hour
	for what, ask := range ask {
		_, err := ask()
		refused(t, what+", when its loan is over", err, BadStatus)
	}
	grant := device.Grant{ID: "pump-1", Certificate: device.Certificate{Fingerprint: keyOf([]byte("another"))}}
	if _, err := d.Registrar.cfg.Devices.Grant(t.Context(), grant); err == nil {
		t.Error("the registry takes one")
	}
}
