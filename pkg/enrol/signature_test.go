package enrol

import (
	"crypto"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestASignedMessageCanBeSentAgain, by anybody: it brings what it brought, and takes
// nothing of the quota.
func TestASignedMessageCanBeSentAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.cfg.Enrolment.Quota.Certificates = 3
	key := newKey(t, ca.P256)
	first, err := d.operator("pump-1", request(t, key, ""))
	if err != nil {
		t.Fatal(err)
	}
	signed := func(iss *Issued, csr []byte) (*Issued, error) {
		return d.Enrol(t.Context(), &Request{Way: SCEP, CSR: csr, Proof: Signature{Certificate{iss.Chain[0]}}, Listener: config.EnrolmentListener})
	}
	same := request(t, key, "pump-1")
	second, err := signed(first, same)
	if err != nil || second.Repeated {
		t.Fatalf("%+v %v", second, err)
	}
	for range 5 {
		if again, err := signed(first, same); err != nil || !again.Repeated || !again.Chain[0].Equal(second.Chain[0]) {
			t.Fatalf("sent again: %+v %v", again, err)
		}
	}
	// What follows is another, though the key is the same.
	third, err := signed(second, same)
	if err != nil || third.Repeated {
		t.Errorf("the next renewal: %+v %v", third, err)
	}
	other := request(t, newKey(t, ca.P256), "pump-1")
	if rekeyed, err := signed(third, other); err != nil || rekeyed.Repeated {
		t.Errorf("with another key: %+v %v", rekeyed, err)
	}
	_, err = signed(third, request(t, newKey(t, ca.P256), "pump-1"))
	refused(t, "the quota holds", err, OverQuota)
}

// TestASignedRequestIsTheSigners: a request of no name could be somebody else's that
// was seen on the way, and its key would then be the wrong device's.
func TestASignedRequestIsTheSigners(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.cfg.Enrolment.Grace = config.Duration(24 * time.Hour)
	iss, err := d.Enrol(t.Context(), &Request{Way: CLI, ID: "pump-1", CSR: request(t, newKey(t, ca.P256), ""), Proof: Operator{"jane"},
		New: &device.Record{Class: "infusion-pump"}, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for what, ahead := range map[string]time.Duration{"in force": 0, "ended": 2 * time.Hour} {
		d.ahead = ahead
		for _, cn := range []string{"", "pump-2"} {
			_, err := d.Enrol(t.Context(), &Request{Way: SCEP, CSR: request(t, newKey(t, ca.P256), cn), Proof: Signature{Certificate{iss.Chain[0]}}, Listener: config.EnrolmentListener})
			refused(t, what+", made out to "+cn, err, BadNames)
		}
	}
	if _, err := d.Enrol(t.Context(), &Request{Way: SCEP, CSR: request(t, newKey(t, ca.P256), "pump-1"), Proof: Signature{Certificate{iss.Chain[0]}}, Listener: config.EnrolmentListener}); err != nil {
		t.Errorf("its own, after the end: %v", err)
	}
}

// TestASignedMessageRenewsItsOwnKey needs no signing request: the key that signed is
// the one that is asked for. In force or ended, it brings one certificate however
// often it is sent.
func TestASignedMessageRenewsItsOwnKey(t *testing.T) {
	t.Parallel()
	for what, ahead := range map[string]time.Duration{"in force": 0, "ended": 2 * time.Hour} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			d.cfg.Enrolment.Grace = config.Duration(24 * time.Hour)
			key := newKey(t, ca.P256)
			old, err := d.Enrol(t.Context(), &Request{Way: CLI, ID: "pump-1", CSR: request(t, key, ""), Proof: Operator{"jane"}, New: &device.Record{Class: "infusion-pump"}, TTL: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			d.ahead = ahead
			send := func() (*Issued, error) {
				return d.Enrol(t.Context(), &Request{Way: Smallstep, SameKey: true, Proof: Signature{Certificate{old.Chain[0]}}, Listener: config.EnrolmentListener})
			}
			first, err := send()
			if err != nil || first.Repeated || !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(first.Chain[0].PublicKey) {
				t.Fatalf("%+v %v", first, err)
			}
			if again, err := send(); err != nil || !again.Repeated || !again.Chain[0].Equal(first.Chain[0]) {
				t.Errorf("sent again: %+v %v", again, err)
			}
			if rec, _ := d.Registrar.cfg.Devices.Get("pump-1"); len(rec.Certificates) != 2 {
				t.Errorf("%d certificates", len(rec.Certificates))
			}
			if _, err := d.Registrar.cfg.Devices.SetStatus(t.Context(), "pump-1", device.Revoked, ""); err != nil {
				t.Fatal(err)
			}
			_, err = send()
			refused(t, "revoked", err, BadProof)
		})
	}
}
