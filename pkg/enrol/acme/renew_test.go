package acme

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

// TestAServersRecordIsNotRenewedIntoADevices: its certificate says names and opens
// nothing, and an operator's command for devices must not turn it into one that does.
func TestAServersRecordIsNotRenewedIntoADevices(t *testing.T) {
	t.Parallel()
	h, s, c := neighbours(t)
	renew := func(id string) error {
		_, csr, err := ca.NewKeyAndCSR(ca.P256, id)
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.registrar.Enrol(t.Context(), &enrol.Request{Way: enrol.CLI, ID: id, CSR: csr.Raw, Proof: enrol.Operator{Person: "jane"}})
		return err
	}
	leaf := c.certificate(s, newKey(t))
	err := renew("lis-1")
	if why, ok := errors.AsType[*enrol.Refusal](err); !ok || why.Code != enrol.BadStatus || !errors.Is(err, device.ErrTransition) || !strings.Contains(why.Why, "renews its certificate by ACME") {
		t.Fatalf("renewed: %v", err)
	}
	if rec, _ := h.devices.Get("lis-1"); len(rec.Certificates) != 1 || rec.Certificates[0].Serial != leaf.SerialNumber.String() {
		t.Errorf("%+v", rec)
	}
	// It may end, and is a server's all the same.
	h.ahead.Store(int64(2 * 366 * 24 * time.Hour))
	if renew("lis-1") == nil {
		t.Error("renewed when its certificate had ended")
	}
}

// TestAPhonesRecordIsRenewedByAnOperator: ACME gave it a device's certificate.
func TestAPhonesRecordIsRenewedByAnOperator(t *testing.T) {
	t.Parallel()
	h, m, c := phones(t)
	key := newKey(t)
	leaf := m.about(key.Public(), ext(t, oidYubicoSerial, 88123))
	o, _ := c.attest("step", func(auth string) map[string]any { return stepStatement(t, key, leaf, auth) })
	if a := c.post(o.text("finalize"), csrFor(t, key, "88123")); a.text("status") != "valid" {
		t.Fatalf("%s", a.body)
	}
	_, csr, err := ca.NewKeyAndCSR(ca.P256, "phone-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.registrar.Enrol(t.Context(), &enrol.Request{Way: enrol.CLI, ID: "phone-1", CSR: csr.Raw, Proof: enrol.Operator{Person: "jane"}}); err != nil {
		t.Error(err)
	}
}
