package revocation

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

func (o *office) listed(c *x509.Certificate) bool {
	o.t.Helper()
	return o.entry(c) != nil
}

// entry returns what the list in force says of a certificate.
func (o *office) entry(c *x509.Certificate) *x509.RevocationListEntry {
	o.t.Helper()
	l, err := o.book.List(o.t.Context(), o.ca.Intermediates()[0])
	if err != nil {
		o.t.Fatal(err)
	}
	parsed, err := x509.ParseRevocationList(l.DER)
	if err != nil {
		o.t.Fatal(err)
	}
	for i := range parsed.RevokedCertificateEntries {
		if e := &parsed.RevokedCertificateEntries[i]; e.SerialNumber.Cmp(c.SerialNumber) == 0 {
			return e
		}
	}
	return nil
}

// TestAListIsMadeWhenThereIsAReason: a revocation, or half of its time; and not
// for everybody who asks.
func TestAListIsMadeWhenThereIsAReason(t *testing.T) {
	o := newOffice(t)
	pump := o.enrol("pump-1")
	number := func() int64 {
		t.Helper()
		l, err := o.book.List(t.Context(), o.ca.Intermediates()[0])
		if err != nil {
			t.Fatal(err)
		}
		return l.Number
	}
	first := number()
	o.wait(11 * time.Hour)
	if number() != first {
		t.Error("a list was made before half of the time")
	}
	o.wait(2 * time.Hour)
	second := number()
	if second <= first {
		t.Error("no list was made after half of the time")
	}
	o.revoke("pump-1", "lost")
	o.wait(pause)
	if !o.listed(pump) {
		t.Error("the revoked certificate is not on the next list")
	}
	if third := number(); third <= second || number() != third {
		t.Errorf("lists %d and %d", second, third)
	}
}

// TestWhatACrashCutOffIsMadeUpFor: the registry knows of a revocation, the CA
// was not told.
func TestWhatACrashCutOffIsMadeUpFor(t *testing.T) {
	o := newSharedOffice(t)
	pump, other := o.enrol("pump-1"), o.enrol("pump-2")
	if _, err := o.devices.SetStatus(t.Context(), "pump-1", device.Retired, ""); err != nil {
		t.Fatal(err)
	}
	s, err := o.book.Status(t.Context(), pump.SerialNumber.String())
	if err != nil || !s.Revoked || s.RevokedAt.IsZero() {
		t.Errorf("the registry is not asked: %+v %v", s, err)
	}
	if !o.listed(pump) || o.listed(other) {
		t.Error("the list is not what the registry says")
	}
	if s, err = o.book.Status(t.Context(), pump.SerialNumber.String()); err != nil || !s.Revoked || s.Reason != 5 {
		t.Errorf("then the CA says %+v %v", s, err)
	}
	if s, err = o.book.Status(t.Context(), other.SerialNumber.String()); err != nil || s.Revoked || s.Certificate == nil {
		t.Errorf("of the other it says %+v %v", s, err)
	}
}

// TestOneCertificateThatACrashCutOffIsMadeUpFor, for its own reason: the device stays
// what it is.
func TestOneCertificateThatACrashCutOffIsMadeUpFor(t *testing.T) {
	o := newSharedOffice(t)
	pump := o.enrol("pump-3")
	rec, _ := o.devices.Get("pump-3")
	if _, err := o.devices.Withdraw(t.Context(), "pump-3", rec.Certificates[0].Fingerprint, "Key Compromise", nil); err != nil {
		t.Fatal(err)
	}
	if s, err := o.book.Status(t.Context(), pump.SerialNumber.String()); err != nil || !s.Revoked || s.Reason != 1 {
		t.Errorf("the registry is not asked: %+v %v", s, err)
	}
	if !o.listed(pump) {
		t.Error("it is not on the list")
	}
	if s, err := o.ca.Status(t.Context(), pump.SerialNumber.String()); err != nil || !s.Revoked || s.Reason != 1 {
		t.Errorf("then the CA says %+v %v", s, err)
	}
}

// TestTheListsDateIsNotTheRecords: it is the CA's own, so that a record that does not
// say when its device was revoked, as those of former releases do not, has one that
// stays as it is.
func TestTheListsDateIsNotTheRecords(t *testing.T) {
	o := newOffice(t)
	pump := o.enrol("pump-1")
	rec, _ := o.devices.Get("pump-1")
	rec, err := o.devices.Withdraw(t.Context(), "pump-1", rec.Certificates[0].Fingerprint, "lost", nil)
	if err != nil || !rec.RevokedAt.IsZero() {
		t.Fatalf("%+v %v", rec, err)
	}
	first := o.entry(pump)
	if first == nil || first.RevocationTime.IsZero() {
		t.Fatalf("the list says %+v", first)
	}
	for _, id := range []string{"pump-2", "pump-3", "pump-4"} {
		o.wait(4 * time.Hour)
		o.enrol(id)
		o.revoke(id, "lost") // for a list that is made anew
		if e := o.entry(pump); e == nil || !e.RevocationTime.Equal(first.RevocationTime) {
			t.Errorf("after %v the list says %+v, and said %+v", o.ahead, e, first)
		}
	}
}
