package breakglass

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

// Purposes of statements. A signature for one is worth nothing for another, nor for
// anything else an operator signs.
const (
	ToOpen    = "anteroom-break-glass-open"
	ToApprove = "anteroom-break-glass-approve"
	ToReview  = "anteroom-break-glass-review"
)

// Fresh is how old a statement may be when it arrives. One that was kept is of no
// use later, even where what became of its grant was forgotten.
const Fresh = 5 * time.Minute

// A Statement is what an operator signs.
type Statement struct {
	TrustDomain string    `json:"trust_domain"`
	Grant       string    `json:"grant"` // its id
	Operator    string    `json:"operator"`
	At          time.Time `json:"at"`
	// Terms are those of an opening.
	Terms *Terms `json:"terms,omitempty"`
	// Until is when the grant is to end: of an approval, or of an opening alone.
	Until time.Time `json:"until,omitzero"`
	// Opening is the digest of the opening that an approval or review is about, so
	// that it is about those very terms.
	Opening string `json:"opening,omitempty"`
	Finding string `json:"finding,omitempty"` // of a review
}

// Sign signs a statement for a purpose.
func (s *Statement) Sign(purpose string, key crypto.Signer, cert *x509.Certificate) (string, error) {
	s.At, s.Until = s.At.UTC().Truncate(time.Second), s.Until.UTC().Truncate(time.Second)
	return jws.Sign(purpose, s, key, cert)
}

// ReadStatement reads a statement whose signature holds, and the certificate it was
// made with. Whose that is, and whether it counts, are the caller's to find out.
func ReadStatement(purpose, token string) (*Statement, *x509.Certificate, error) {
	payload, cert, err := jws.Read(purpose, token)
	if err != nil {
		return nil, nil, err
	}
	s := &Statement{}
	if err := jws.Decode(payload, s); err != nil {
		return nil, nil, fmt.Errorf("what it says: %w", err)
	}
	return s, cert, nil
}

// Digest returns what later statements name an opening by.
func Digest(opening string) string {
	sum := sha256.Sum256([]byte(opening))
	return hex.EncodeToString(sum[:])
}

// idAlphabet has no letters that are read wrongly on the phone.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

const (
	idPrefix = "bg-"
	idLen    = 8 // letters after it: 40 bits
)

// NewID returns the id of a new grant: short, because it is typed in a hurry.
func NewID() string {
	var b [idLen * 5 / 8]byte
	rand.Read(b[:])
	return idPrefix + base32.NewEncoding(idAlphabet).WithPadding(base32.NoPadding).EncodeToString(b[:])
}

// validID reports whether id is one that NewID could have made.
func validID(id string) bool {
	rest, ok := strings.CutPrefix(id, idPrefix)
	return ok && len(rest) == idLen && strings.Trim(rest, idAlphabet) == ""
}
