package enrol

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
)

// TestWhatHappensWhileACertificateIsMadeCounts: what an operator does to a device
// between the checks and the grant is not overtaken by a request that was under way.
func TestWhatHappensWhileACertificateIsMadeCounts(t *testing.T) {
	t.Parallel()
	status := func(d *desk, to device.Status) error {
		_, err := d.Registrar.cfg.Devices.SetStatus(context.Background(), "pump-1", to, "meanwhile")
		return err
	}
	anew := func(d *desk) error {
		if err := status(d, device.Revoked); err != nil {
			return err
		}
		_, err := d.Enrol(context.Background(), &Request{Way: CLI, ID: "pump-1", CSR: request(d.t, newKey(d.t, ca.P256), ""), Proof: Operator{"jane"}, Again: true,
			New: &device.Record{Class: "infusion-pump", Manufacturer: "Acme", Model: "P1", Serial: "1"}})
		return err
	}
	for what, c := range map[string]struct {
		do     func(d *desk) error
		proofs []string
		has    int // certificates, afterwards
	}{
		"in quarantine": {func(d *desk) error { return status(d, device.Quarantined) }, []string{"certificate", "token", "account", "approval"}, 1},
		// It is active again, and not by what was under way.
		"revoked and enrolled anew": {anew, []string{"certificate", "token", "account", "approval"}, 2},
		"decommissioned":            {func(d *desk) error { return status(d, device.Retired) }, []string{"certificate"}, 1},
		"replaced": {func(d *desk) error {
			_, _, err := d.Registrar.cfg.Devices.Replace(context.Background(), "pump-1", &device.Record{ID: "pump-2"}, "")
			return err
		}, []string{"certificate"}, 1},
	} {
		for _, by := range c.proofs {
			d := newDesk(t)
			a := newFactory(t, "Acme")
			m := d.makers(config.Manufacturer{Name: "Acme", Anchors: anchors(t, a)})
			d.made("pump-1", "Acme", "P1", "1")
			first, err := d.by(d.token("pump-1"), request(t, newKey(t, ca.P256), ""))
			if err != nil {
				t.Fatal(err)
			}
			token, opened := d.token("pump-1"), d.Registrar.cfg.Clock()
			d.approve("pump-1", false)
			d.ahead = time.Minute
			d.Registrar.cfg.Policy = func(context.Context) (*policy.Set, error) {
				d.Registrar.cfg.Policy = func(context.Context) (*policy.Set, error) { return d.set, nil }
				return d.set, c.do(d)
			}
			switch key := newKey(t, ca.P256); by {
			case "certificate":
				_, err = d.Enrol(t.Context(), &Request{Way: EST, CSR: request(t, key, ""), Proof: Certificate{first.Chain[0]}})
			case "token":
				_, err = d.by(token, request(t, key, ""))
			case "account":
				names := []string{"lis.hospital.example"}
				_, err = d.byAccount(Account{Device: "pump-1", Names: names, Opened: opened}, named(t, key, "", names...))
			case "approval":
				_, err = d.with(m, a.makes(t, idevid("1")), request(t, key, ""))
			}
			if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != BadStatus && r.Code != BadProof {
				t.Errorf("%s by %s: %v", what, by, err)
			}
			if rec := d.record("pump-1"); len(rec.Certificates) != c.has {
				t.Errorf("%s by %s: %+v", what, by, rec)
			}
		}
	}
}

// TestAKeyThatIsWithdrawnWhileACertificateIsMadeForItGetsNone: who has the key that was
// lost may be asking for another certificate at that moment.
func TestAKeyThatIsWithdrawnWhileACertificateIsMadeForItGetsNone(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.register("pump-1", device.Pending)
	key := newKey(t, ca.P256)
	first, err := d.by(d.token("pump-1"), request(t, key, ""))
	if err != nil {
		t.Fatal(err)
	}
	token := d.token("pump-1")
	d.Registrar.cfg.Policy = func(context.Context) (*policy.Set, error) {
		_, err := d.Registrar.cfg.Devices.Withdraw(context.Background(), "pump-1", fingerprint(first.Chain[0]), "key compromise", nil)
		return d.set, err
	}
	_, err = d.by(token, request(t, key, ""))
	refused(t, "the key that was withdrawn", err, BadKey)
	if rec := d.record("pump-1"); len(rec.Certificates) != 1 {
		t.Errorf("%+v", rec)
	}
}
