package breakglass

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"reflect"
	"testing"
	"time"
)

func TestAStatementIsGoodForOnePurpose(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := &Statement{TrustDomain: "hospital.example", Grant: NewID(), Operator: "jane", At: time.Now(), Until: time.Now().Add(time.Hour),
		Terms: &Terms{Devices: []string{"a", "b"}, Class: "c", Location: "<icu & 2>", Routes: []string{"r"}, Reason: "Ausfall für Ünïcode", Time: time.Hour}}
	token, err := s.Sign(ToOpen, key, cert)
	if err != nil {
		t.Fatal(err)
	}
	got, with, err := ReadStatement(ToOpen, token)
	if err != nil || !with.Equal(cert) || !reflect.DeepEqual(got, s) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, purpose := range []string{ToApprove, ToReview, "JWT", ""} {
		if _, _, err := ReadStatement(purpose, token); err == nil {
			t.Errorf("a request to open is good for %q", purpose)
		}
	}
	if Digest(token) == Digest(token+" ") || len(Digest(token)) != 64 {
		t.Error("digests")
	}
}

func TestIDsAreDifferentAndWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := NewID()
		if seen[id] || !validID(id) {
			t.Fatal(id)
		}
		seen[id] = true
	}
}
