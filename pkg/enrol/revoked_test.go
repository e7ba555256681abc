package enrol

import (
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestWhatWasMadeBeforeARevocationIsWorthNothingInTheNextLife: a token, an account
// and an approval from before a device was revoked do not serve it when it is
// enrolled anew, whether it had a certificate to revoke or not, and though the
// process was killed before anybody took them back.
func TestWhatWasMadeBeforeARevocationIsWorthNothingInTheNextLife(t *testing.T) {
	t.Parallel()
	for _, certified := range []bool{false, true} {
		d := newDesk(t)
		ctx, devices := t.Context(), d.Registrar.cfg.Devices
		a := newFactory(t, "Acme")
		m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a)})
		d.made("pump-1", "Acme", "P1", "1")
		if certified {
			if _, err := d.by(d.token("pump-1"), request(t, newKey(t, ca.P256), "")); err != nil {
				t.Fatal(err)
			}
		}
		names, opened := []string{"lis.hospital.example"}, d.Registrar.cfg.Clock()
		token := d.token("pump-1")
		d.approve("pump-1", false)
		d.ahead += time.Minute
		if _, err := devices.SetStatus(ctx, "pump-1", device.Revoked, "stolen"); err != nil {
			t.Fatal(err)
		}
		d.ahead += time.Minute
		again := &device.Record{Class: "infusion-pump", Manufacturer: "Acme", Model: "P1", Serial: "1"}
		_, err := d.Enrol(ctx, &Request{Way: CLI, ID: "pump-1", CSR: request(t, newKey(t, ca.P256), ""), Proof: Operator{"jane"}, New: again, Again: true})
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.by(token, request(t, newKey(t, ca.P256), ""))
		refused(t, "a token from before", err, BadProof)
		_, err = d.byAccount(Account{Device: "pump-1", Names: names, Opened: opened}, named(t, newKey(t, ca.P256), "", names...))
		refused(t, "an account from before", err, BadProof)
		// With the factory's certificate it waits, and is approved for this life.
		dev, csr := a.makes(t, idevid("1")), request(t, newKey(t, ca.P256), "")
		_, err = d.with(m, dev, csr)
		waits(t, "an approval from before", err)
		d.approve("pump-1", false)
		if _, err := d.with(m, dev, csr); err != nil {
			t.Errorf("approved anew: %v", err)
		}
	}
}
