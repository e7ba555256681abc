package device

import "time"

// Status is where a device stands in its life. It is the registry's word and
// nobody else's.
type Status string

// The life of a device: pending → active ⇄ quarantined; any → revoked (final
// for its certificates) and retired (final for the record).
const (
	Pending     Status = "pending"
	Active      Status = "active"
	Quarantined Status = "quarantined"
	Revoked     Status = "revoked"
	Retired     Status = "retired"
)

// A Record is what the registry knows of one device. Records handed out by the
// registry are shared and must not be changed; a change is a new Record with a
// higher Revision.
type Record struct {
	ID           string            `json:"id"`
	Class        string            `json:"class"`
	Manufacturer string            `json:"manufacturer,omitempty"`
	Model        string            `json:"model,omitempty"`
	Serial       string            `json:"serial,omitempty"`
	UDI          string            `json:"udi,omitempty"`
	Location     string            `json:"location,omitempty"`
	Owner        string            `json:"owner,omitempty"`
	Tags         map[string]string `json:"tags,omitempty"`
	LifeCritical bool              `json:"life_critical,omitempty"`
	Status       Status            `json:"status"`
	StatusReason string            `json:"status_reason,omitempty"`
	StatusAt     time.Time         `json:"status_at"`
	// RevokedAt is when the device was revoked last, whether it had a certificate or
	// not. It stays when the device is enrolled anew: what was made for it before
	// then, such as a token, is not good for its next life.
	RevokedAt time.Time `json:"revoked_at,omitzero"`
	Posture   Posture   `json:"posture"`
	// Loan is where the device is for a time; nil when it is at home.
	Loan         *Loan         `json:"loan,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	// Patients are with whom the device is associated, in order; some may have
	// ended, see PatientsAt. They are not part of the record's JSON: whoever shows
	// or keeps a record shows and keeps no patient.
	Patients  []Association `json:"-"`
	CreatedAt time.Time     `json:"created_at"`
	UpdatedAt time.Time     `json:"updated_at"`
	// Revision counts the registry's changes; the record's is that of the
	// change that made it.
	Revision uint64 `json:"revision"`
}

// Posture holds facts about a device's health.
type Posture struct {
	Firmware   string    `json:"firmware,omitempty"`
	MaxCVSS    float64   `json:"max_cvss,omitempty"` // of its known vulnerabilities, 0 to 10
	AssessedAt time.Time `json:"assessed_at,omitzero"`
}

// A Certificate is one that was issued to the device. A device has one or two
// valid ones: two while a renewal overlaps.
type Certificate struct {
	Serial         string    `json:"serial"`      // decimal, as the CA names it
	Fingerprint    string    `json:"fingerprint"` // SHA-256 of the DER form, lower-case hex
	NotBefore      time.Time `json:"not_before"`
	NotAfter       time.Time `json:"not_after"`
	HardwareBacked bool      `json:"hardware_backed,omitempty"`
	RevokedAt      time.Time `json:"revoked_at,omitzero"`
	// RevokedFor is why, if it was revoked by itself and not with its device.
	RevokedFor string `json:"revoked_for,omitempty"`
	// Key names the public key: SHA-256 of its SubjectPublicKeyInfo, lower-case
	// hex. No two devices have the same. It is empty in what was issued before it
	// was recorded.
	Key string `json:"key,omitempty"`
	// Way is how the device came to it, such as "est"; IssuedAt is when.
	Way      string    `json:"way,omitempty"`
	IssuedAt time.Time `json:"issued_at,omitzero"`
}

// Certificate returns the record's certificate with the given fingerprint, or
// nil if it has none such.
func (r *Record) Certificate(fingerprint string) *Certificate {
	for i := range r.Certificates {
		if r.Certificates[i].Fingerprint == fingerprint {
			return &r.Certificates[i]
		}
	}
	return nil
}

// Full reports whether a record has room for no further certificate: those that have
// not ended are kept, whether they were revoked or not.
func (r *Record) Full(now time.Time) bool {
	n := 0
	for i := range r.Certificates {
		if r.Certificates[i].NotAfter.After(now) {
			n++
		}
	}
	return n >= maxCertificates
}
