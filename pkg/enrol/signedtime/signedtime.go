// Package signedtime tells devices without a clock what time it is, at the
// enrolment listener: who can not tell the time can not tell either whether the
// gateway's certificate is in its validity, and must not believe the time that an
// unverified peer's TLS or Date says.
//
// A device sends a nonce and gets it back beside the time, signed by a key whose
// certificate the CA made for this and nothing else. What it has to know beforehand
// is the root's certificate. See docs/certificates.md for what it has to check.
package signedtime

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

// Type is the type in the header of a signed time.
const Type = "anteroom-time"

const (
	// life is how long a timekeeper's certificate is valid: what a key that was
	// stolen from a running gateway could go on lying for.
	life = 24 * time.Hour
	// minNonce and maxNonce bound a nonce, in characters: of base64 or hex, 96 bits
	// and more.
	minNonce, maxNonce = 16, 128
)

// A Time is what is signed.
type Time struct {
	Nonce string `json:"nonce"` // the device's
	Time  string `json:"time"`  // RFC 3339 in UTC, with milliseconds
	// Domain is the trust domain, for devices that know more than one root.
	Domain string `json:"trust_domain"`
}

// Config is what the endpoint is made from. Every field is required.
type Config struct {
	CA     *ca.Authority
	Clock  func() time.Time
	Logger *slog.Logger
}

// A keeper has the key that signs.
type keeper struct {
	cfg Config

	mu  sync.Mutex
	now *ca.Responder
}

// Endpoints returns the endpoint, POST /time.
func Endpoints(cfg Config) []web.Endpoint {
	k := &keeper{cfg: cfg}
	return []web.Endpoint{{Method: http.MethodPost, Path: "/time", Serve: k.serve}}
}

func (k *keeper) serve(w http.ResponseWriter, r *web.Request) {
	in, err := r.Strings("nonce")
	if err != nil || !validNonce(in["nonce"]) {
		http.Error(w, `the body is {"nonce": "…"}, 16 to 128 characters of a-z, A-Z, 0-9, "-" and "_" that were not used before`, http.StatusBadRequest)
		return
	}
	signed, err := k.sign(r.Context(), in["nonce"])
	if err != nil {
		k.cfg.Logger.Error("signing the time", "error", err)
		http.Error(w, "the time can not be signed now; try again later", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/jose")
	_, _ = w.Write([]byte(signed))
}

func validNonce(s string) bool {
	if len(s) < minNonce || len(s) > maxNonce {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// sign returns the signed time in compact form.
func (k *keeper) sign(ctx context.Context, nonce string) (string, error) {
	key, err := k.key(ctx)
	if err != nil {
		return "", err
	}
	h := jws.Header{Type: Type, KeyID: jws.Fingerprint(key.Certificate), Chain: raw(k.cfg.CA.ChainOf(key.Certificate))}
	return jws.Compact(h, Time{nonce, k.cfg.Clock().UTC().Format("2006-01-02T15:04:05.000Z"), k.cfg.CA.TrustDomain()}, key.Key)
}

// key returns the key that signs now; it is replaced when half of its life is over.
func (k *keeper) key(ctx context.Context) (*ca.Responder, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now != nil && k.cfg.Clock().Before(k.now.Certificate.NotAfter.Add(-life/2)) {
		return k.now, nil
	}
	next, err := k.cfg.CA.NewTimekeeper(context.WithoutCancel(ctx), life)
	if err != nil {
		return nil, err
	}
	k.now = next
	return next, nil
}

// raw returns certificates as they are sent.
func raw(chain []*x509.Certificate) (out [][]byte) {
	for _, c := range chain {
		out = append(out, c.Raw)
	}
	return out
}
