package ca

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/nosql"
)

// ErrUnknownSerial is wrapped by the error of [Authority.Revoke] for a serial
// number this CA never issued.
var ErrUnknownSerial = errors.New("no certificate with this serial number was issued")

const (
	// maxSerial is the most digits of a 20-octet serial number (RFC 5280
	// §4.1.2.2).
	maxSerial = 49
	// maxReason bounds what is stored of a reason, in bytes.
	maxReason = 1024
)

// reasonCodes are the reasons of RFC 5280 §5.3.1 that can be said in words;
// everything else is "unspecified".
var reasonCodes = map[string]int{
	"key compromise": 1, "keycompromise": 1,
	"affiliation changed": 3, "affiliationchanged": 3,
	"superseded":             4,
	"cessation of operation": 5, "cessationofoperation": 5, "retired": 5,
	"privilege withdrawn": 9, "privilegewithdrawn": 9,
}

// ReasonCode returns the number that lists and answers have for a reason in words.
func ReasonCode(reason string) int { return reasonCodes[strings.ToLower(reason)] }

// Revoke revokes the certificate with a serial number, given in decimal. The
// revocation is on stable storage before Revoke returns nil. Revoking what is
// already revoked is no error; the first reason stays.
//
// It is final, and it is bookkeeping: what ends a device's sessions is the
// registry.
func (a *Authority) Revoke(ctx context.Context, serial, reason string) error {
	if err := a.revoke(ctx, serial, reason); err != nil {
		return fmt.Errorf("revoke certificate %.60s: %w", serial, err)
	}
	return nil
}

func (a *Authority) revoke(ctx context.Context, serial, reason string) error {
	if err := checkSerial(serial); err != nil {
		return err
	}
	if len(reason) > maxReason {
		return fmt.Errorf("the reason is longer than %d bytes", maxReason)
	}
	if err := a.enter(ctx); err != nil {
		return err
	}
	defer a.leave()
	cert, err := a.db.GetCertificate(serial)
	if nosql.IsErrNotFound(err) {
		return ErrUnknownSerial
	}
	if err != nil {
		return err
	}
	// The engine wants a token, or the certificate and the word that its holder
	// authenticated (MTLS). Our caller has authenticated the operator.
	err = a.trust.Load().engine.Revoke(provisioner.NewContextWithMethod(ctx, provisioner.RevokeMethod), &authority.RevokeOptions{
		Serial: serial, Reason: reason, ReasonCode: ReasonCode(reason),
		PassiveOnly: true, MTLS: true, Crt: cert,
	})
	if err == nil {
		a.revocations.Add(1)
		return nil
	}
	if done, e := a.db.IsRevoked(serial); e == nil && done {
		return nil
	}
	return err
}

// IsRevoked reports whether the certificate with a serial number, given in
// decimal, was revoked. A serial number that was never issued is not.
func (a *Authority) IsRevoked(serial string) (bool, error) {
	if err := checkSerial(serial); err != nil {
		return false, fmt.Errorf("look up certificate %.60s: %w", serial, err)
	}
	if err := a.enter(context.Background()); err != nil {
		return false, fmt.Errorf("look up certificate %s: %w", serial, err)
	}
	defer a.leave()
	return a.db.IsRevoked(serial)
}

// checkSerial accepts the one decimal spelling of a number.
func checkSerial(s string) error {
	if s == "" || len(s) > maxSerial || strings.Trim(s, "0123456789") != "" || s[0] == '0' {
		return errors.New("not a serial number in decimal")
	}
	return nil
}
