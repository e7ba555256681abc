package enrol

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// shelved enrols a pump for an hour, with a grace of a day for pumps, and lets two
// hours pass.
func shelved(t *testing.T) (*desk, crypto.Signer, *x509.Certificate) {
	t.Helper()
	d := newDesk(t)
	d.cfg.Enrolment.ClassGrace = map[string]config.Duration{"infusion-pump": config.Duration(24 * time.Hour)}
	key := newKey(t, ca.P256)
	iss, err := d.Enrol(t.Context(), &Request{Way: CLI, ID: "pump-1", CSR: request(t, key, ""), Proof: Operator{"jane"}, New: &device.Record{Class: "infusion-pump"}, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	d.ahead = 2 * time.Hour
	return d, key, iss.Chain[0]
}

// late renews at the enrolment listener.
func (d *desk) late(leaf *x509.Certificate, csr []byte) (*Issued, error) {
	q := &Request{Way: EST, CSR: csr, Proof: Certificate{leaf}, Listener: config.EnrolmentListener}
	if csr == nil {
		q.Way, q.SameKey = Smallstep, true
	}
	return d.Enrol(d.t.Context(), q)
}

func TestAShelfDeviceRenewsWithTheCertificateThatEnded(t *testing.T) {
	t.Parallel()
	for what, rekey := range map[string]bool{"with its key": false, "with another key": true} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d, _, old := shelved(t)
			var csr []byte
			if rekey {
				csr = request(t, newKey(t, ca.P384), "pump-1")
			}
			iss, err := d.late(old, csr)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(iss.Device.Certificates); n != 2 || iss.Repeated || !iss.Chain[0].NotAfter.After(old.NotAfter) {
				t.Errorf("%d certificates, the last until %v", n, iss.Chain[0].NotAfter)
			}
			// The answer was lost: the same again brings the same, and no more.
			again, err := d.late(old, csr)
			if err != nil || !again.Repeated || !again.Chain[0].Equal(iss.Chain[0]) || len(d.record("pump-1").Certificates) != 2 {
				t.Errorf("the same again: %+v, %v", again, err)
			}
			// With yet another key the old certificate has ended for good.
			_, err = d.late(old, request(t, newKey(t, ca.P256), ""))
			if r := refused(t, "another key", err, BadProof); !strings.Contains(r.Told(), "another certificate after it") {
				t.Errorf("it is told %q", r.Told())
			}
			if n := d.count("device.renewed"); n != 1 {
				t.Errorf("%d renewals recorded", n)
			}
		})
	}
}

// TestAnExpiredCertificateIsWorthNothingElse: each thing that is not as it should
// be is enough.
func TestAnExpiredCertificateIsWorthNothingElse(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		change func(*testing.T, *desk, *Request)
		code   Code
		text   string
	}{
		"at another listener": {func(_ *testing.T, _ *desk, q *Request) { q.Listener = "devices" }, BadProof, "not one of a device here"},
		"at none":             {func(_ *testing.T, _ *desk, q *Request) { q.Listener = "" }, BadProof, "not one of a device here"},
		"beyond its grace":    {func(_ *testing.T, d *desk, _ *Request) { d.ahead = 26 * time.Hour }, BadProof, "renew for 24h"},
		"of a class without": {func(_ *testing.T, d *desk, _ *Request) {
			d.cfg.Enrolment.ClassGrace = map[string]config.Duration{"infusion-pump": 0}
			d.cfg.Enrolment.Grace = config.Duration(48 * time.Hour) // of all others
		}, BadProof, "do not renew after that"},
		"where nobody said": {func(_ *testing.T, d *desk, _ *Request) { d.cfg.Enrolment.ClassGrace = nil }, BadProof, "do not renew after that"},
		"in quarantine": {func(t *testing.T, d *desk, _ *Request) {
			moved(t, d, device.Quarantined)
		}, BadStatus, "it is quarantined"},
		"revoked": {func(t *testing.T, d *desk, _ *Request) { moved(t, d, device.Revoked) }, BadProof, "was revoked"},
		"retired": {func(t *testing.T, d *desk, _ *Request) { moved(t, d, device.Retired) }, BadProof, "was revoked"},
		"superseded": {func(t *testing.T, d *desk, _ *Request) {
			if _, err := d.Enrol(t.Context(), &Request{Way: CLI, ID: "pump-1", CSR: request(t, newKey(t, ca.P256), ""), Proof: Operator{"jane"}}); err != nil {
				t.Fatal(err)
			}
		}, BadProof, "another certificate after it"},
		"of another registry": {func(t *testing.T, d *desk, q *Request) {
			_, _, theirs := shelved(t)
			q.Proof = Certificate{theirs}
		}, BadProof, "does not know this certificate"},
		"of another CA":  {func(t *testing.T, _ *desk, q *Request) { q.Proof = Certificate{foreign(t, "pump-1")} }, BadProof, "not one of a device here"},
		"another's name": {func(t *testing.T, _ *desk, q *Request) { q.CSR = request(t, newKey(t, ca.P256), "pump-9") }, BadNames, "other names"},
		"another's key": {func(t *testing.T, d *desk, q *Request) {
			theirs := newKey(t, ca.P256)
			if _, err := d.operator("pump-2", request(t, theirs, "")); err != nil {
				t.Fatal(err)
			}
			q.CSR = request(t, theirs, "")
		}, BadKey, "another device's"},
		"for longer than its class": {func(_ *testing.T, _ *desk, q *Request) { q.TTL = time.Hour }, BadRequest, "only an operator"},
		"as another kind of device": {func(_ *testing.T, _ *desk, q *Request) { q.New = &device.Record{Class: "ct-scanner"} }, BadRequest, "only an operator"},
		"over the quota":            {func(_ *testing.T, d *desk, _ *Request) { d.cfg.Enrolment.Quota.Certificates = 0 }, OverQuota, "quota"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d, _, old := shelved(t)
			q := &Request{Way: EST, CSR: request(t, newKey(t, ca.P256), ""), Proof: Certificate{old}, Listener: config.EnrolmentListener}
			c.change(t, d, q)
			have := len(d.record("pump-1").Certificates)
			_, err := d.Enrol(t.Context(), q)
			if r := refused(t, what, err, c.code); !strings.Contains(r.Told(), c.text) {
				t.Errorf("it is told %q", r.Told())
			}
			if n := len(d.record("pump-1").Certificates); n != have {
				t.Errorf("it was given a certificate")
			}
			// Whoever asks who somebody is, is never told a device by it.
			if id, err := d.identify(old); err == nil {
				t.Errorf("it identifies %s", id)
			}
		})
	}
}

// moved changes pump-1's status.
func moved(t *testing.T, d *desk, to device.Status) {
	t.Helper()
	if _, err := d.Registrar.cfg.Devices.SetStatus(t.Context(), "pump-1", to, ""); err != nil {
		t.Fatal(err)
	}
}

// foreign is a certificate of another CA that names a device of ours.
func foreign(t *testing.T, id string) *x509.Certificate {
	t.Helper()
	key := newKey(t, ca.P256)
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: id}, URIs: []*url.URL{ca.DeviceURI(domain, id)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestThePolicySetHasTheLastWordOnExpiredCertificatesToo, and sees them as what
// they are.
func TestThePolicySetHasTheLastWordOnExpiredCertificatesToo(t *testing.T) {
	t.Parallel()
	d, _, old := shelved(t)
	d.set = ruled(t, `deny contains "pumps come to the workshop" if input.enrolment.proof == "expired-certificate"`)
	_, err := d.late(old, request(t, newKey(t, ca.P256), ""))
	refused(t, "denied", err, Denied)
}
