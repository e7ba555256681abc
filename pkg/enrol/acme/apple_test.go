package acme

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// raw is an extension whose value is in no ASN.1.
func raw(id asn1.ObjectIdentifier, value []byte) pkix.Extension {
	return pkix.Extension{Id: id, Value: value}
}

// appleStatement makes a statement about a key as an Apple device has it made, for a
// challenge whose authorization this is.
func (m *maker) appleStatement(pub crypto.PublicKey, authorization string, exts ...pkix.Extension) map[string]any {
	token, _, _ := strings.Cut(authorization, ".")
	sum := sha256.Sum256([]byte(token))
	leaf := m.about(pub, append(exts, raw(oidAppleNonce, sum[:]))...)
	return map[string]any{"x5c": [][]byte{leaf.Raw}}
}

// TestAKeyInAnAppleDeviceBringsItsCertificate, by serial number or by UDID, for the
// attested key only.
func TestAKeyInAnAppleDeviceBringsItsCertificate(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	h := newHall(t, fmt.Sprintf(`{attestation: [{manufacturer: Apple Inc., formats: [apple], roots: %q}]}`, m.root()))
	serial, udid := raw(oidAppleSerial, []byte("88123")), raw(oidAppleUDID, []byte("00008030-000A11223344"))
	tablet := h.register(&device.Record{ID: "tablet-1", Class: "tablet", Manufacturer: "Apple Inc.", Serial: "88123"})
	key := newKey(t)
	o, a := tablet.attest("apple", func(auth string) map[string]any { return m.appleStatement(key.Public(), auth, serial, udid) })
	if a.text("status") != "valid" {
		t.Fatalf("%s", a.body)
	}
	h.holds("another key", tablet.post(o.text("finalize"), csrFor(t, newKey(t), "88123")), http.StatusBadRequest, badCSR, "another key")
	if a := tablet.post(o.text("finalize"), csrFor(t, key, "88123")); a.text("status") != "valid" {
		t.Fatalf("%s", a.body)
	}
	if rec, _ := h.devices.Get("tablet-1"); len(rec.Certificates) != 1 || !rec.Certificates[0].HardwareBacked || rec.Status != device.Active {
		t.Errorf("%+v", rec)
	}
	// One that the registry knows by its UDID, as the tag says.
	other := h.register(&device.Record{ID: "tablet-2", Class: "tablet", Manufacturer: "Apple Inc.", Tags: map[string]string{"permanent-identifier": "00008030-000A11223344"}})
	o, chs := other.order(ident{"type": "permanent-identifier", "value": "00008030-000A11223344"})
	obj := map[string]any{"fmt": "apple", "authData": []byte{}, "attStmt": m.appleStatement(newKey(t).Public(), other.authorization(chs[deviceAttest]), serial, udid)}
	if a := other.post(chs[deviceAttest]["url"].(string), map[string]string{"attObj": b64(enc(t, obj))}); a.text("status") != "valid" {
		t.Errorf("by its UDID: %s", a.body)
	}
	if a := other.again(o); a.text("status") != "ready" {
		t.Errorf("the order: %s", a.body)
	}
}

// TestAnAppleStatementThatProvesNothingIsRefused, each for its reason, and recorded.
func TestAnAppleStatementThatProvesNothingIsRefused(t *testing.T) {
	t.Parallel()
	m, stranger := newMaker(t), newMaker(t)
	h := newHall(t, fmt.Sprintf(`{attestation: [{manufacturer: Apple Inc., formats: [apple], roots: %q}]}`, m.root()))
	c := h.register(&device.Record{ID: "tablet-1", Class: "tablet", Manufacturer: "Apple Inc.", Serial: "88123"})
	key := newKey(t)
	serial := raw(oidAppleSerial, []byte("88123"))
	about := func(exts ...pkix.Extension) func(string) map[string]any {
		return func(auth string) map[string]any { return m.appleStatement(key.Public(), auth, exts...) }
	}
	bare := func(exts ...pkix.Extension) func(string) map[string]any {
		return func(string) map[string]any {
			return map[string]any{"x5c": [][]byte{m.about(key.Public(), exts...).Raw}}
		}
	}
	for what, x := range map[string]struct {
		make func(string) map[string]any
		text string
	}{
		"another root's":  {func(auth string) map[string]any { return stranger.appleStatement(key.Public(), auth, serial) }, "does not chain"},
		"no nonce":        {bare(serial), "another challenge, or for none"},
		"an empty nonce":  {bare(serial, raw(oidAppleNonce, nil)), "another challenge, or for none"},
		"another's nonce": {func(string) map[string]any { return m.appleStatement(key.Public(), "another.x", serial) }, "another challenge"},
		"the nonce of the authorization": {func(auth string) map[string]any {
			sum := sha256.Sum256([]byte(auth))
			return bare(serial, raw(oidAppleNonce, sum[:]))(auth)
		}, "another challenge"},
		"another device's":    {about(raw(oidAppleSerial, []byte("88124"))), "another than the registry's"},
		"with a UDID as that": {about(raw(oidAppleSerial, []byte("88124")), raw(oidAppleUDID, []byte("88123"))), "another than the registry's"},
		"nobody's":            {about(), "does not name the hardware"},
		"one that is long":    {about(raw(oidAppleUDID, []byte(strings.Repeat("8", maxAppleID+1)))), "too long"},
		"a signature": {func(auth string) map[string]any {
			s := m.appleStatement(key.Public(), auth, serial)
			s["sig"] = []byte{1}
			return s
		}, "what Apple's do not"},
	} {
		before := len(h.refusals())
		_, a := c.attest("apple", x.make)
		p, _ := a.json["error"].(map[string]any)
		if a.text("status") != "invalid" || p["type"] != errorURN+badAttestationStatement || !strings.Contains(fmt.Sprint(p["detail"]), x.text) {
			t.Errorf("%s: %d %s, want %q", what, a.status, a.body, x.text)
		}
		if got := h.refusals()[before:]; len(got) != 1 || !strings.HasPrefix(got[0], "tablet-1: badAttestationStatement: ") {
			t.Errorf("%s: %q", what, got)
		}
	}
	// One of step's format, from the same root: the operator did not say that it is taken.
	leaf := m.about(key.Public(), ext(t, oidYubicoSerial, 88123))
	if _, a := c.attest("step", func(auth string) map[string]any { return stepStatement(t, key, leaf, auth) }); a.text("status") != "invalid" {
		t.Errorf("another format: %s", a.body)
	}
}
