package acme

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

// revoke is RFC 8555 §7.6: a certificate is revoked for the account that it was
// issued to, or for whoever has its key.
func (c *call) revoke() *fault {
	asked, f := c.asked()
	if f != nil {
		return f
	}
	var cert string
	if err := json.Unmarshal(asked["certificate"], &cert); err != nil {
		return notWellFormed("the payload has no certificate")
	}
	der, err := decode64(cert)
	if err != nil || len(der) == 0 {
		return notWellFormed("the certificate is not in base64url (RFC 8555 section 7.6)")
	}
	code, err := strconv.Atoi(cmp.Or(string(asked["reason"]), "0"))
	reason, ok := enrol.HoldersReason(code)
	if err != nil || !ok {
		return faulty(badRevocationReason, http.StatusBadRequest, enrol.BadRequest, "the reason is none of 0, 1, 3, 4, 5 and 9 (RFC 5280 section 5.3.1)")
	}
	sum := sha256.Sum256(der)
	q := &enrol.Request{Way: enrol.ACME, ID: c.device, Proof: enrol.Account{}}
	r := &enrol.Revocation{Fingerprint: hex.EncodeToString(sum[:]), Reason: reason, May: c.accountsOwn}
	if c.account == nil {
		q.Proof, r.May = enrol.Certificate{}, func(*device.Record, *device.Certificate) error { return c.keysOwn(der) }
	}
	why, err := c.Revoke(q, r)
	switch {
	case errors.Is(err, device.ErrWithdrawn):
		return faulty(alreadyRevoked, http.StatusBadRequest, enrol.BadRequest, "%v", err)
	case why != nil:
		return ofRefusal(why)
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// accountsOwn refuses what ACME did not issue to the account's device. The same device
// may have been given others, by ways that ask for other proofs.
func (c *call) accountsOwn(rec *device.Record, cert *device.Certificate) error {
	if rec.ID != c.account.Device || cert.Way != string(enrol.ACME) {
		return enrol.NotTheirs()
	}
	return nil
}

// keysOwn refuses who has another key than a certificate's, which is one of ours.
func (c *call) keysOwn(der []byte) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if key, ok := c.key.key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(leaf.PublicKey) {
		return enrol.NotTheirs()
	}
	return nil
}
