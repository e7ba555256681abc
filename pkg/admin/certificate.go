package admin

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

// RevokeCertificate revokes one certificate of a device, which stays what it is. When
// it returns, the sessions that were begun with it have been ended.
func (s *Service) RevokeCertificate(ctx context.Context, a Actor, req *WithdrawRequest) (*RevokedCertificate, error) {
	serial, err := decimal(req.Serial)
	if err != nil {
		return nil, err
	}
	st, err := s.cfg.State.CA.Status(ctx, serial)
	if err != nil {
		return nil, err
	}
	if st.Certificate == nil {
		return nil, fmt.Errorf("certificate %s: %w", serial, noCertificate("this CA did not issue it"))
	}
	fp := ca.Fingerprint(st.Certificate)
	if _, ok := s.cfg.State.Devices.ByFingerprint(fp); !ok {
		return nil, fmt.Errorf("certificate %s of %q: %w", serial, st.Certificate.Subject.CommonName,
			noCertificate("the registry does not have it, so that no device gets in with it (operator revoke withdraws an operator's)"))
	}
	rec, err := s.registrar.Revoke(ctx, &enrol.Request{Way: enrol.CLI, Proof: enrol.Operator{Person: a.Name}}, &enrol.Revocation{
		Fingerprint: fp, Reason: req.Reason, May: func(*device.Record, *device.Certificate) error { return nil },
	})
	before := errors.Is(err, device.ErrWithdrawn)
	if err != nil && !before {
		return nil, err
	}
	return &RevokedCertificate{Device: rec, Serial: serial, Before: before}, nil
}

// noCertificate is [device.ErrNotFound] in the words of certificates.
type noCertificate string

func (n noCertificate) Error() string      { return string(n) }
func (noCertificate) Is(target error) bool { return target == device.ErrNotFound }

// maxSerialText bounds how a serial number is written: 20 octets with colons between.
const maxSerialText = 64

// decimal reads a serial number: in decimal, or in hexadecimal if it begins with 0x or
// has a letter or a colon.
func decimal(text string) (string, error) {
	bad := fmt.Errorf("%w serial number: write it in decimal, or in hexadecimal with 0x before it", device.ErrInvalid)
	if len(text) > maxSerialText {
		return "", bad
	}
	hex, base := strings.ToLower(text), 10
	if rest, ok := strings.CutPrefix(hex, "0x"); ok {
		hex, base = rest, 16
	} else if strings.ContainsAny(hex, "abcdef:") {
		hex, base = strings.ReplaceAll(hex, ":", ""), 16
	}
	if strings.Trim(hex, "0123456789abcdef") != "" {
		return "", bad
	}
	n, ok := new(big.Int).SetString(hex, base)
	if !ok || n.Sign() <= 0 {
		return "", bad
	}
	return n.String(), nil
}
