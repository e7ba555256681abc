package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"net/url"
	"time"
)

// An attacker tries one way in, again and again.
type attacker struct {
	name string
	what string // what it tries, for the screen
	// client is the connection it has; compromised ones share a device's.
	client *http.Client
	path   string
}

// attempt is how one try ended.
type attempt struct {
	attacker *attacker
	status   int    // 0 if there was no answer
	heard    string // what the attacker heard instead
}

// The attackers' names.
const (
	noCertificate = "no certificate"
	foreign       = "foreign certificate"
	revoked       = "revoked device"
	compromised   = "compromised monitor"
)

// attackers are all of them.
var attackers = [...]string{noCertificate, foreign, revoked, compromised}

// attackEvery is the pause between two attackers' tries.
const attackEvery = 700 * time.Millisecond

// attack has the four attackers take turns until ctx ends. Every one of them has
// tried once, however short the demo is.
func (h *hospital) attack(ctx context.Context) {
	forged, err := forge(monitorID)
	if err != nil {
		h.screen.failed("forging a certificate: " + err.Error())
		return
	}
	list := []*attacker{
		{noCertificate, "connects without one", h.client(), "/fhir/Patient"},
		{foreign, "has another CA's certificate with a monitor's name", h.client(forged), "/fhir/Patient"},
		{revoked, revokedID + " comes back with its old certificate", h.client(h.pairs[revokedID]), "/fhir/MedicationRequest/order-1"},
		{compromised, monitorID + " starts to read patient records", h.client(h.pairs[monitorID]), "/fhir/Patient"},
	}
	reads := []string{"/fhir/Patient", "/fhir/Patient/p1", "/fhir/Patient/p2/$everything", "/fhir/Observation?_include=Observation:subject"}
	tick := time.NewTicker(attackEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		a := list[n%len(list)]
		if a.name == compromised {
			a.path = reads[n/len(list)%len(reads)]
		}
		tctx := ctx
		if n < len(list) {
			tctx = context.WithoutCancel(ctx)
		}
		if r := try(tctx, a); tctx.Err() == nil {
			h.screen.attacked(r)
		}
		select {
		case <-ctx.Done():
			if n >= len(list)-1 {
				return
			}
		case <-tick.C:
		}
	}
}

// try makes one try.
func try(ctx context.Context, a *attacker) attempt {
	out := attempt{attacker: a}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+a.path, nil)
	if err != nil {
		out.heard = err.Error()
		return out
	}
	resp, err := a.client.Do(req)
	if err != nil {
		out.heard = innermost(err)
		return out
	}
	resp.Body.Close()
	out.status = resp.StatusCode
	return out
}

// innermost returns the text of the error at the bottom of a chain.
func innermost(err error) string {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err.Error()
		}
		err = u.Unwrap()
	}
}

// forge makes a certificate that names one of our devices, from a CA of its own.
func forge(id string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: id},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/device/" + id}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
