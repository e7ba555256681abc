package ca

import (
	"crypto/rand"
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"
)

func TestVerifyDeviceRefuses(t *testing.T) {
	a := openCA(t, newCA(t))
	b := bundle(t, a, P256)
	leaf := b.Chain[0]
	now := time.Now()
	if id, err := a.VerifyDevice(leaf, now); err != nil || id != "pump-1" {
		t.Fatal(id, err)
	}

	foreignDir := filepath.Join(t.TempDir(), "ca")
	if _, err := Init(t.Context(), initConfig(foreignDir)); err != nil {
		t.Fatal(err)
	}
	foreign := bundle(t, openCA(t, foreignDir), P256)

	// A device that takes itself for a CA.
	self := *leaf
	self.URIs, self.Extensions = nil, nil
	self.URIs = append(self.URIs, DeviceURI(testDomain, "pump-2"))
	der, err := x509.CreateCertificate(rand.Reader, &self, leaf, b.Key.Public(), b.Key)
	if err != nil {
		t.Fatal(err)
	}
	child, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}

	for name, test := range map[string]struct {
		leaf *x509.Certificate
		at   time.Time
	}{
		"none":            {nil, now},
		"expired":         {leaf, leaf.NotAfter.Add(time.Second)},
		"not yet valid":   {leaf, leaf.NotBefore.Add(-time.Second)},
		"foreign CA":      {foreign.Chain[0], now},
		"intermediate":    {b.Chain[1], now},
		"root":            {a.Roots()[0], now},
		"device as CA":    {child, now},
		"self-signed one": {withSANs(t, san{tagURIName, DeviceURI(testDomain, "pump-1").String()}), now},
	} {
		if id, err := a.VerifyDevice(test.leaf, test.at); err == nil {
			t.Errorf("%s: passes for %q", name, id)
		}
		if id, err := a.VerifyOperator(test.leaf, test.at); err == nil {
			t.Errorf("%s: passes for operator %q", name, id)
		}
	}
}

func TestPoolsAreTheCallersOwn(t *testing.T) {
	a := openCA(t, newCA(t))
	foreignDir := filepath.Join(t.TempDir(), "ca")
	if _, err := Init(t.Context(), initConfig(foreignDir)); err != nil {
		t.Fatal(err)
	}
	other := openCA(t, foreignDir)
	roots, inter := a.Pool()
	for _, p := range []*x509.CertPool{roots, inter, a.ClientCAs()} {
		p.AddCert(other.Roots()[0])
		p.AddCert(other.Intermediates()[0])
	}
	a.Roots()[0], a.Intermediates()[0] = other.Roots()[0], other.Intermediates()[0]
	if id, err := a.VerifyDevice(bundle(t, other, P256).Chain[0], time.Now()); err == nil {
		t.Errorf("a caller widened the CA's trust: %q", id)
	}
	if _, err := a.VerifyDevice(bundle(t, a, P256).Chain[0], time.Now()); err != nil {
		t.Error(err)
	}
}

// TestFormerIntermediateIsStillTrusted: after a rotation, certificates of the
// former intermediate stay good until they end.
func TestFormerIntermediateIsStillTrusted(t *testing.T) {
	dir := newCA(t)
	a := openCA(t, dir)
	b := bundle(t, a, P256)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	// A second CA stands in for the first one after its rotation.
	next := filepath.Join(t.TempDir(), "ca")
	if _, err := Init(t.Context(), initConfig(next)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{rootFile, intermediateFile} {
		var both []byte
		for _, d := range []string{next, dir} {
			both = append(both, mustRead(t, filepath.Join(d, name))...)
		}
		overwrite(t, filepath.Join(next, name), both)
	}
	a = openCA(t, next)
	if id, err := a.VerifyDevice(b.Chain[0], time.Now()); err != nil || id != "pump-1" {
		t.Error(id, err)
	}
	if id, err := a.VerifyDevice(bundle(t, a, P256).Chain[0], time.Now()); err != nil || id != "pump-1" {
		t.Error(id, err)
	}
	if len(a.Roots()) != 2 || len(a.Intermediates()) != 2 {
		t.Error("a certificate is missing")
	}
}
