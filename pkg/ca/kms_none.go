//go:build !cgo || !pkcs11

package ca

import (
	"context"

	"go.step.sm/crypto/kms/apiv1"
)

// openKMS says that this build can not.
func openKMS(context.Context, string, string) (apiv1.KeyManager, error) { return nil, ErrNoKMS }
