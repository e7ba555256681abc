//go:build cgo && pkcs11

package ca

import (
	"context"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/pkcs11"
)

// openKMS opens a PKCS#11 module.
func openKMS(ctx context.Context, uri, pin string) (apiv1.KeyManager, error) {
	return pkcs11.New(ctx, apiv1.Options{Type: apiv1.PKCS11, URI: uri, Pin: pin})
}
