package acme

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

// certificate has the device's server given a certificate, for a key.
func (c *client) certificate(s *site, key crypto.Signer) *x509.Certificate {
	t := c.h.t
	t.Helper()
	o, chs := c.order(ident{"type": "dns", "value": lis})
	s.says(c.authorization(chs[http01]))
	if a := c.post(chs[http01]["url"].(string), map[string]any{}); a.text("status") != "valid" {
		t.Fatalf("the challenge: %d %s", a.status, a.body)
	}
	done := c.post(o.text("finalize"), csrFor(t, key, "", lis))
	chain := c.post(done.text("certificate"), nil)
	block, _ := pem.Decode(chain.body)
	if block == nil {
		t.Fatalf("the certificate: %s, then %s", done.body, chain.body)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func revocation(leaf *x509.Certificate, reason any) map[string]any {
	m := map[string]any{"certificate": b64(leaf.Raw)}
	if reason != nil {
		m["reason"] = reason
	}
	return m
}

// revoked reports for which reason a certificate was revoked, as the CA and the
// registry know it.
func (h *hall) revoked(leaf *x509.Certificate, id string, want bool, code int) {
	h.t.Helper()
	st, err := h.ca.Status(h.t.Context(), leaf.SerialNumber.String())
	if err != nil || st.Revoked != want || st.Reason != code {
		h.t.Errorf("the CA: %+v, %v", st, err)
	}
	rec, _ := h.devices.Get(id)
	for _, c := range rec.Certificates {
		if c.Serial == leaf.SerialNumber.String() && c.RevokedAt.IsZero() == want {
			h.t.Errorf("the registry: %+v", c)
		}
	}
}

// TestACertificateIsRevokedByItsAccount, and the account goes on: it gets another,
// for another key.
func TestACertificateIsRevokedByItsAccount(t *testing.T) {
	t.Parallel()
	h, s, c := neighbours(t)
	key := newKey(t)
	leaf, kept := c.certificate(s, key), c.certificate(s, newKey(t))
	for reason, text := range map[any]string{2: "none of 0, 1", 6: "none of", 8: "none of", 7: "none of", 10: "none of", 11: "none of", -1: "none of", "1": "none of", 1.5: "none of"} {
		h.holds("a reason", c.post(revokeCert, revocation(leaf, reason)), http.StatusBadRequest, badRevocationReason, text)
	}
	h.holds("none", c.post(revokeCert, map[string]any{"reason": 1}), http.StatusBadRequest, malformed, "no certificate")
	h.holds("no base64", c.post(revokeCert, map[string]any{"certificate": "+/=="}), http.StatusBadRequest, malformed, "base64url")
	h.holds("no certificate", c.post(revokeCert, map[string]any{"certificate": b64([]byte("hello"))}), http.StatusForbidden, unauthorized, "not one of a device here")
	h.revoked(leaf, "lis-1", false, 0)
	other := h.register(&device.Record{ID: "ris-1"})
	h.holds("another's account", other.post(revokeCert, revocation(leaf, 1)), http.StatusForbidden, unauthorized, "may not")
	h.revoked(leaf, "lis-1", false, 0)
	if a := c.post(revokeCert, revocation(leaf, 1)); a.status != http.StatusOK || len(a.body) != 0 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	h.revoked(leaf, "lis-1", true, 1)
	h.revoked(kept, "lis-1", false, 0)
	h.holds("once more", c.post(revokeCert, revocation(leaf, 4)), http.StatusBadRequest, alreadyRevoked, "revoked before")
	h.revoked(leaf, "lis-1", true, 1)
	if rec, _ := h.devices.Get("lis-1"); rec.Status != device.Active || rec.Certificates[0].RevokedFor != "key compromise" {
		t.Errorf("%+v", rec)
	}
	if got := h.events("certificate.revoked"); len(got) != 1 || !strings.HasPrefix(got[0], "lis-1") {
		t.Errorf("records: %v", got)
	}
	// The key is worth nothing any more, and the account as much as before.
	o, chs := c.order(ident{"type": "dns", "value": lis})
	s.says(c.authorization(chs[http01]))
	c.post(chs[http01]["url"].(string), map[string]any{})
	h.holds("with the key that was withdrawn", c.post(o.text("finalize"), csrFor(t, key, "", lis)), http.StatusBadRequest, badCSR, "withdrawn")
	c.certificate(s, newKey(t))
}

// TestACertificateIsRevokedByItsKey, whatever way it came by; no other key does it,
// and an account's is another.
func TestACertificateIsRevokedByItsKey(t *testing.T) {
	t.Parallel()
	h, s, c := neighbours(t)
	key := newKey(t)
	leaf := c.certificate(s, key)
	thief := h.client()
	h.holds("another key", thief.post(revokeCert, revocation(leaf, 1)), http.StatusForbidden, unauthorized, "may not")
	own := &client{h: h, key: c.key}
	h.holds("the account's key, in the request", own.post(revokeCert, revocation(leaf, 1)), http.StatusForbidden, unauthorized, "may not")
	h.revoked(leaf, "lis-1", false, 0)
	holder := &client{h: h, key: key, forge: true}
	h.holds("forged", holder.post(revokeCert, revocation(leaf, nil)), http.StatusForbidden, unauthorized, "signature")
	if a := holder.post(revokeCert, revocation(leaf, nil)); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	h.revoked(leaf, "lis-1", true, 0)
	h.holds("once more", holder.post(revokeCert, revocation(leaf, 0)), http.StatusBadRequest, alreadyRevoked, "revoked before")
	// A device's, which it was given with a token: by its key, and by no account.
	pump := newKey(t)
	if _, err := h.devices.Create(t.Context(), &device.Record{ID: "pump-1", Class: "pump"}); err != nil {
		t.Fatal(err)
	}
	text, _, err := h.tokens.Create(t.Context(), "pump-1", "jane", enrol.MinTokenTTL, false)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{}, pump)
	if err != nil {
		t.Fatal(err)
	}
	iss, err := h.registrar.Enrol(t.Context(), &enrol.Request{Way: enrol.ByToken, CSR: csr, Proof: enrol.Secret{Text: text}})
	if err != nil {
		t.Fatal(err)
	}
	account := h.open("pump-1")
	h.holds("its device's account", account.post(revokeCert, revocation(iss.Chain[0], 1)), http.StatusForbidden, unauthorized, "may not")
	if a := (&client{h: h, key: pump}).post(revokeCert, revocation(iss.Chain[0], 3)); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	h.revoked(iss.Chain[0], "pump-1", true, 3)
	// The CA's own certificate is nobody's here.
	h.holds("the intermediate", account.post(revokeCert, revocation(iss.Chain[1], 1)), http.StatusForbidden, unauthorized, "not one of a device here")
}
