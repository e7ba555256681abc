package admin

import (
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/pkg/policy/bundle"
)

// A Role is what an operator may do.
type Role string

// The roles. Everyone of them may look.
const (
	Viewer          Role = "viewer"
	Enroller        Role = "enroller"
	PolicyAuthor    Role = "policy-author"
	SecurityOfficer Role = "security-officer"
	Auditor         Role = "auditor"
)

// AllRoles are the roles there are; the owner of the state directory has them.
var AllRoles = []Role{Viewer, Enroller, PolicyAuthor, SecurityOfficer, Auditor}

// An Actor is who asks for an operation.
type Actor struct {
	Name  string
	Roles []Role
}

// may reports whether the actor has one of the roles.
func (a Actor) may(roles ...Role) bool {
	return slices.ContainsFunc(roles, func(r Role) bool { return slices.Contains(a.Roles, r) })
}

// EnrollRequest asks for a device and its first certificate.
type EnrollRequest struct {
	Device device.Record `json:"device"` // id, class and descriptive fields; the others are ignored
	CSR    []byte        `json:"csr"`    // PEM or DER
	TTL    time.Duration `json:"ttl,omitempty"`
	// Again enrols a revoked device anew.
	Again bool `json:"again,omitempty"`
}

// RenewRequest asks for a further certificate of a device.
type RenewRequest struct {
	ID  string        `json:"id"`
	CSR []byte        `json:"csr"`
	TTL time.Duration `json:"ttl,omitempty"`
}

// TokenRequest asks for a one-time token for a device.
type TokenRequest struct {
	ID  string        `json:"id"`
	TTL time.Duration `json:"ttl"`
	// Class registers a device that is not in the registry, as pending.
	Class string `json:"class,omitempty"`
	// Again makes a token that enrols a revoked device anew.
	Again bool `json:"again,omitempty"`
	// ACME asks for the token in the form in which ACME knows it.
	ACME bool `json:"acme,omitempty"`
}

// Token is a one-time token as it is shown once.
type Token struct {
	Token   string    `json:"token,omitempty"`
	Name    string    `json:"name"` // what list and revoke call it
	Device  string    `json:"device"`
	Class   string    `json:"class"`
	Expires time.Time `json:"expires"`
	// Registered says that the device was not in the registry before.
	Registered bool     `json:"registered,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
	// RootFingerprint is the SHA-256 of the root certificate, with which a device
	// that knows nothing yet recognises the gateway.
	RootFingerprint string `json:"root_fingerprint"`
	// URL is the enrolment listener's, if there is one.
	URL string `json:"url,omitempty"`
	// ACME is there in place of Token, if that was asked for.
	ACME *ACMEBinding `json:"acme,omitempty"`
}

// ACMEBinding is what an ACME client is told, to open an account for a device: the
// external account it is bound to (RFC 8555 §7.3.4).
type ACMEBinding struct {
	Directory string `json:"directory,omitempty"`
	KeyID     string `json:"key_id"`
	HMACKey   string `json:"hmac_key"` // base64url
}

// TokenStatus describes a one-time token without its secret.
type TokenStatus struct {
	Name    string    `json:"name"`
	Device  string    `json:"device"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"`
	Again   bool      `json:"again,omitempty"`
}

// Issued is a certificate that was issued.
type Issued struct {
	Device   *device.Record `json:"device"`
	ChainPEM []byte         `json:"chain_pem"`
	RootsPEM []byte         `json:"roots_pem"`
	Serial   string         `json:"serial"`
	NotAfter time.Time      `json:"not_after"`
	// CutShort says that the CA's own end came before the asked one.
	CutShort bool `json:"cut_short,omitempty"`
	// Warnings are what the operator should know, such as a class that no
	// policy knows.
	Warnings []string `json:"warnings,omitempty"`
}

// ListRequest narrows a list of devices.
type ListRequest struct {
	Class    string        `json:"class,omitempty"`
	Status   device.Status `json:"status,omitempty"`
	Location string        `json:"location,omitempty"`
	Expiring time.Duration `json:"expiring,omitempty"`
}

// StatusRequest moves a device to another status.
type StatusRequest struct {
	ID     string        `json:"id"`
	To     device.Status `json:"to"`
	Reason string        `json:"reason,omitempty"`
}

// WithdrawRequest names one certificate.
type WithdrawRequest struct {
	// Serial is its serial number, in decimal as it is shown here or in hexadecimal as
	// others show it.
	Serial string `json:"serial"`
	Reason string `json:"reason,omitempty"`
}

// RevokedCertificate is one that is revoked.
type RevokedCertificate struct {
	Device *device.Record `json:"device"` // whose it is, as it is now
	Serial string         `json:"serial"` // in decimal
	// Before says that it was revoked before it was asked for.
	Before bool `json:"before,omitempty"`
}

// PostureRequest says what was found out about a device's health; nil is what
// was not looked at.
type PostureRequest struct {
	ID         string    `json:"id"`
	Firmware   *string   `json:"firmware,omitempty"`
	MaxCVSS    *float64  `json:"max_cvss,omitempty"`
	AssessedAt time.Time `json:"assessed_at"`
}

// ReplaceRequest has one device take another's place.
type ReplaceRequest struct {
	Old    string `json:"old"`
	New    string `json:"new"`
	Serial string `json:"serial,omitempty"` // the new one's
	Reason string `json:"reason,omitempty"`
}

// Replaced are both devices afterwards.
type Replaced struct {
	Old *device.Record `json:"old"`
	New *device.Record `json:"new"`
}

// LoanRequest puts a device elsewhere for a time: until Until, or for For.
type LoanRequest struct {
	ID       string        `json:"id"`
	To       string        `json:"to"`
	Location string        `json:"location,omitempty"` // empty: as at home
	Owner    string        `json:"owner,omitempty"`    // empty: as at home
	Until    time.Time     `json:"until,omitzero"`
	For      time.Duration `json:"for,omitempty"`
	// ThenQuarantine cuts the device off at the end.
	ThenQuarantine bool `json:"then_quarantine,omitempty"`
}

// DecommissionRequest takes a device out of service for good.
type DecommissionRequest struct {
	ID string `json:"id"`
	// To is what becomes of it, such as "destroyed" or "sold to …".
	To string `json:"to"`
	// Wiped says that keys and patients' data were taken off it.
	Wiped bool `json:"wiped,omitempty"`
}

// Name names a device, a session or an operator.
type Name struct {
	ID string `json:"id"`
}

// OperatorRequest asks for an operator and a certificate.
type OperatorRequest struct {
	Name  string        `json:"name"`
	Roles []Role        `json:"roles"`
	CSR   []byte        `json:"csr"`
	TTL   time.Duration `json:"ttl,omitempty"`
}

// An Operator is a person with an identity certificate and roles.
type Operator struct {
	Name        string    `json:"name"`
	Roles       []Role    `json:"roles"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"fingerprint"`
	NotAfter    time.Time `json:"not_after"`
	RevokedAt   time.Time `json:"revoked_at,omitzero"`
}

// SessionInfo describes a live session.
type SessionInfo struct {
	ID       string    `json:"id"`
	Device   string    `json:"device"`
	Class    string    `json:"class"`
	Listener string    `json:"listener"`
	Remote   string    `json:"remote"`
	Started  time.Time `json:"started"`
	TLS      string    `json:"tls"`
	ALPN     string    `json:"alpn,omitempty"`
	Resumed  bool      `json:"resumed,omitempty"`
	Lane     bool      `json:"quarantine_lane,omitempty"` // the device is quarantined, and has only its lane
	Ongoing  int64     `json:"ongoing"`
}

// Status is how the gateway is.
type Status struct {
	Running     bool                  `json:"running"`
	Version     string                `json:"version,omitempty"`
	Started     time.Time             `json:"started,omitzero"`
	TrustDomain string                `json:"trust_domain"`
	Listeners   []ListenerStatus      `json:"listeners,omitempty"`
	Backends    []BackendStatus       `json:"backends,omitempty"`
	Passing     []PassingRoute        `json:"passing_on_failure,omitempty"`
	Policy      PolicyStatus          `json:"policy"`
	Devices     map[device.Status]int `json:"devices"`
	Sessions    int                   `json:"sessions"`
	Audit       audit.Status          `json:"audit"`
	CA          []CertificateStatus   `json:"ca"`
	// Expiring are the active devices whose certificate ends first.
	Expiring []DeviceExpiry `json:"expiring,omitempty"`
	// ExpiringWithin counts the active devices whose last certificate ends within so
	// many days; 0 are those whose has ended.
	ExpiringWithin map[int]int `json:"expiring_within,omitempty"`
	// Restored is set if the state is a backup's, until that is acknowledged.
	Restored *Restored `json:"restored,omitempty"`
	// BreakGlass are the emergency grants that are open or to be reviewed.
	BreakGlass []Grant  `json:"break_glass,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
	// Problems are what does not work as it should; Warnings are what works and
	// should be known.
	Problems []string `json:"problems,omitempty"`
}

// ListenerStatus describes a listener.
type ListenerStatus struct {
	Name         string              `json:"name"`
	Address      string              `json:"address"`
	Protocol     string              `json:"protocol"`
	Profile      string              `json:"tls_profile"`
	Connections  int64               `json:"connections"`
	Certificates []CertificateStatus `json:"certificates"`
}

// CertificateStatus describes a certificate of the gateway or its CA.
type CertificateStatus struct {
	Name     string    `json:"name"`
	NotAfter time.Time `json:"not_after"`
}

// PassingRoute is a route with on_failure: pass, and what came of allowed transactions
// that the audit log did not take there, entries of Bundles among them, since the
// gateway started.
type PassingRoute struct {
	Route   string    `json:"route"`
	Passed  uint64    `json:"passed"`
	Refused uint64    `json:"refused"`
	Last    time.Time `json:"last,omitzero"`
}

// BackendStatus describes a backend.
type BackendStatus struct {
	Name      string          `json:"name"`
	Insecure  bool            `json:"insecure,omitempty"`
	Addresses []AddressStatus `json:"addresses"`
}

// AddressStatus describes an address of a backend.
type AddressStatus struct {
	Address string `json:"address"`
	Healthy bool   `json:"healthy"`
	Error   string `json:"error,omitempty"`
}

// AuthorityCertificate is a certificate of the embedded CA.
type AuthorityCertificate struct {
	Name        string    `json:"name"`
	Root        bool      `json:"root"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of DER, lower-case hex
	NotAfter    time.Time `json:"not_after"`
	PEM         string    `json:"pem"`
}

// ListOf names the intermediate whose list is asked for, by the last eight digits
// of its name; empty is the issuing one.
type ListOf struct {
	Issuer string `json:"issuer,omitempty"`
}

// RevocationList is the list of revoked certificates of an intermediate.
type RevocationList struct {
	Issuer     string    `json:"issuer"`
	Number     int64     `json:"number"`
	Entries    int       `json:"entries"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	PEM        string    `json:"pem"`
}

// PolicyStatus describes the policy set in force.
type PolicyStatus struct {
	Dir      string    `json:"dir"`
	Revision string    `json:"revision,omitempty"`
	Loaded   time.Time `json:"loaded,omitzero"`
	// Refused is why what the directory holds now is not in force.
	Refused string `json:"refused,omitempty"`
	// Observing names the routes that forward what the policy denies.
	Observing []string `json:"observing,omitempty"`
	// Source is what the configuration says: directory, pushed or bundle.
	Source string `json:"source"`
	// Pushed is the pushed revision in force, Last the number of the last push.
	Pushed *bundle.Entry `json:"pushed,omitempty"`
	Last   int           `json:"last,omitempty"`
	Canary *CanaryStatus `json:"canary,omitempty"`
	// Remote says how it goes with the bundle server.
	Remote *bundle.RemoteStatus `json:"remote,omitempty"`
	// Cache counts remembered decisions of the set in force.
	Cache policy.CacheStats `json:"cache"`
	// Shadow describes the set that is only tried; nil if there is none.
	Shadow *ShadowStatus `json:"shadow,omitempty"`
}

// ShadowStatus describes a policy set that is evaluated beside the enforced one.
type ShadowStatus struct {
	policy.ShadowStatus
	// Refused is why what the directory holds now is not compared.
	Refused string `json:"refused,omitempty"`
	// Divergences are the most frequent of Rows differences.
	Divergences []policy.Divergence `json:"differences,omitempty"`
	Rows        int                 `json:"rows"`
}

// DeviceExpiry is when a device's last certificate ends.
type DeviceExpiry struct {
	ID       string    `json:"id"`
	NotAfter time.Time `json:"not_after"`
}
