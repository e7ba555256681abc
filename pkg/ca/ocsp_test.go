package ca

import (
	"context"
	"crypto/x509"
	"testing"
	"time"
)

func TestTheStatusOfACertificate(t *testing.T) {
	a := openCA(t, newCA(t))
	issued, err := a.Issue(t.Context(), device1(t, P256))
	if err != nil {
		t.Fatal(err)
	}
	serial := issued.Leaf.SerialNumber.String()
	s, err := a.Status(t.Context(), serial)
	if err != nil || s.Revoked || s.Certificate == nil || !s.Certificate.Equal(issued.Leaf) {
		t.Fatalf("a good one: %+v %v", s, err)
	}
	if err := a.Revoke(t.Context(), serial, "retired"); err != nil {
		t.Fatal(err)
	}
	s, err = a.Status(t.Context(), serial)
	if err != nil || !s.Revoked || s.Reason != 5 || time.Since(s.RevokedAt) > time.Hour || s.RevokedAt.IsZero() {
		t.Errorf("a revoked one: %+v %v", s, err)
	}
	if s, err = a.Status(t.Context(), "123456789"); err != nil || s.Certificate != nil || s.Revoked {
		t.Errorf("one that was never issued: %+v %v", s, err)
	}
	if _, err = a.Status(t.Context(), "x"); err == nil {
		t.Error("x is a serial number")
	}
}

// TestARespondersCertificateIsGoodForNothingElse, and it lives for as long as was
// asked for; so does the timekeeper's.
func TestARespondersCertificateIsGoodForNothingElse(t *testing.T) {
	a := openCA(t, newCA(t))
	for usage, issue := range map[x509.ExtKeyUsage]func(context.Context, time.Duration) (*Responder, error){
		x509.ExtKeyUsageOCSPSigning: func(ctx context.Context, ttl time.Duration) (*Responder, error) {
			return a.NewResponder(ctx, a.issuer(), ttl)
		},
		x509.ExtKeyUsageTimeStamping: a.NewTimekeeper,
	} {
		r, err := issue(t.Context(), 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c := r.Certificate
		if left := time.Until(c.NotAfter); left > 24*time.Hour || left < 23*time.Hour {
			t.Errorf("it ends in %v", left)
		}
		if len(c.URIs)+len(c.DNSNames)+len(c.IPAddresses) != 0 || c.IsCA {
			t.Errorf("it has names, or is a CA's: %v %v %v", c.URIs, c.DNSNames, c.IPAddresses)
		}
		for _, u := range []x509.ExtKeyUsage{
			x509.ExtKeyUsageOCSPSigning, x509.ExtKeyUsageTimeStamping, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageCodeSigning,
		} {
			_, err := c.Verify(x509.VerifyOptions{Roots: a.trust.Load().rootPool, Intermediates: a.trust.Load().pool, KeyUsages: []x509.ExtKeyUsage{u}})
			if (err == nil) != (u == usage) {
				t.Errorf("%s, usage %v: %v", c.Subject.CommonName, u, err)
			}
		}
		if _, err := DeviceID(c, testDomain); err == nil {
			t.Error("it names a device")
		}
	}
}
