package integration

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestADeviceWithoutAClockIsToldTheTime: as a device would, with the root's
// certificate and a verifier of its own, it checks the answer without knowing what
// time it is; and nothing but its own nonce makes it believe one.
func TestADeviceWithoutAClockIsToldTheTime(t *testing.T) {
	t.Parallel()
	h := newEnrolling(t, "")
	const nonce = "3q2-7wKt_5VnXcQx8LbZ"
	before := time.Now().Truncate(time.Millisecond)
	status, signed := h.ask(h.client(), "POST", "/time", `{"nonce": "`+nonce+`"}`)
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, signed)
	}
	part := strings.Split(signed, ".")
	if len(part) != 3 {
		t.Fatalf("it is no JWS: %s", signed)
	}
	raw := make([][]byte, 3)
	for i := range raw {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part[i]); err != nil {
			t.Fatal(err)
		}
	}
	var head struct {
		Alg, Typ string
		X5C      [][]byte
	}
	var said struct {
		Nonce  string
		Time   time.Time
		Domain string `json:"trust_domain"`
	}
	for i, v := range []any{&head, &said} {
		if err := json.Unmarshal(raw[i], v); err != nil {
			t.Fatal(err)
		}
	}
	if head.Alg != "ES256" || head.Typ != "anteroom-time" || len(head.X5C) != 2 || said.Nonce != nonce || said.Domain != "hospital.example" {
		t.Fatalf("%+v %+v", head, said)
	}
	if said.Time.Before(before) || said.Time.After(time.Now()) {
		t.Errorf("the time is %v", said.Time)
	}
	leaf, err := x509.ParseCertificate(head.X5C[0])
	if err != nil {
		t.Fatal(err)
	}
	between, err := x509.ParseCertificate(head.X5C[1])
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(h.Path("root-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	intermediates.AddCert(between)
	// Verified at the time it says: what has to be consistent is the answer.
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: said.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}}); err != nil {
		t.Error(err)
	}
	sum := sha256.Sum256([]byte(part[0] + "." + part[1]))
	r, s := new(big.Int).SetBytes(raw[2][:32]), new(big.Int).SetBytes(raw[2][32:])
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !ecdsa.Verify(key, sum[:], r, s) {
		t.Error("the signature does not hold")
	}
	// The certificate that signs it is good for nothing at the gateway.
	if block, _ := pem.Decode(text); block == nil || leaf.IsCA || len(leaf.URIs)+len(leaf.DNSNames) != 0 {
		t.Error("the timekeeper's certificate names somebody")
	}
	for _, body := range []string{"", "{}", `{"nonce": "short"}`, `{"nonce": "` + strings.Repeat("a", 200) + `"}`, `{"nonce": "3q2-7wKt_5VnXcQx8Lb!"}`,
		`{"nonce": "` + nonce + `", "nonce": "` + nonce + `"}`, `{"nonce": "` + nonce + `", "time": "2020-01-01T00:00:00Z"}`} {
		if status, text := h.ask(h.client(), "POST", "/time", body); status != http.StatusBadRequest {
			t.Errorf("%s is answered %d %s", body, status, text)
		}
	}
	if _, again := h.ask(h.client(), "POST", "/time", `{"nonce": "`+nonce+`"}`); again == signed {
		t.Error("the same answer twice")
	}
}
