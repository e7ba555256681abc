package ca

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
)

// MinPassphrase is the shortest passphrase that is accepted, in bytes (NIST SP
// 800-63B §5.1.1.2). The passphrase is all that protects a stolen key file.
const MinPassphrase = 8

// generatedGroups groups of 5 characters carry 25 bits each: 150 bits.
const generatedGroups = 6

// GeneratePassphrase returns a new random passphrase of 150 bits in readable
// groups, without characters that are easily taken for others (Crockford's base 32).
func GeneratePassphrase() string {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	raw := make([]byte, generatedGroups*5)
	_, _ = rand.Read(raw) // never fails: it ends the program if it could
	var b strings.Builder
	for i, c := range raw {
		if i > 0 && i%5 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(alphabet[c&31])
	}
	return b.String()
}

func checkPassphrase(p []byte) error {
	if len(p) == 0 {
		return errors.New("the passphrase is empty")
	}
	if len(p) < MinPassphrase {
		return fmt.Errorf("the passphrase is shorter than %d characters", MinPassphrase)
	}
	return nil
}
