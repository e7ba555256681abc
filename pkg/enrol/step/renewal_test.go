package step

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"
)

// A shelf is a device's certificate and key, and what step would write in a token.
type shelf struct {
	t    testing.TB
	key  crypto.Signer
	cert *x509.Certificate
	alg  string
}

func newShelf(t testing.TB, key crypto.Signer, alg string) *shelf {
	t.Helper()
	in := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pump-1"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1000, 0)}
	der, err := x509.CreateCertificate(rand.Reader, in, in, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &shelf{t, key, cert, alg}
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

type object = map[string]any

// token signs what step would, with changes: a nil value leaves a name out.
func (s *shelf) token(now time.Time, header, claims object) string {
	s.t.Helper()
	h := object{"alg": s.alg, "typ": "JWT", "kid": "x", "x5cInsecure": []string{base64.StdEncoding.EncodeToString(s.cert.Raw)}}
	c := object{"iss": issuer, "aud": "https://gw.example:8444/renew", "sub": "pump-1", "jti": "x", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	part := func(base, changes object) string {
		for k, v := range changes {
			if base[k] = v; v == nil {
				delete(base, k)
			}
		}
		b, err := json.Marshal(base)
		if err != nil {
			s.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(h, header) + "." + part(c, claims)
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	var err error
	switch key := s.key.(type) {
	case *ecdsa.PrivateKey:
		r, v, e := ecdsa.Sign(rand.Reader, key, sum[:])
		sig, err = append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...), e
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	case ed25519.PrivateKey:
		sig = ed25519.Sign(key, []byte(text))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func TestATokenRenewsTheCertificateWhoseKeySignedIt(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*shelf{newShelf(t, ecKey(t, elliptic.P256()), "ES256"), newShelf(t, long, "RS256"), newShelf(t, ed, "EdDSA")} {
		for what, claims := range map[string]object{
			"step's": nil, "in a list": {"aud": []string{"https://GW.example/1.0/renew"}}, "of a clock a little ahead": {"nbf": now.Add(leeway).Unix()},
		} {
			if got, err := renewing(s.token(now, nil, claims), "gw.example:8444", now); err != nil || !got.Equal(s.cert) {
				t.Errorf("%s, %s: %v", s.alg, what, err)
			}
		}
	}
}

func TestATokenThatRenewsNothing(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	s, other := newShelf(t, ecKey(t, elliptic.P256()), "ES256"), newShelf(t, ecKey(t, elliptic.P256()), "ES256")
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	theirs := base64.StdEncoding.EncodeToString(other.cert.Raw)
	good := strings.Split(s.token(now, nil, nil), ".")
	for what, c := range map[string]struct{ token, want string }{
		"another's certificate":      {s.token(now, object{"x5cInsecure": []string{theirs}}, nil), "signature"},
		"no certificate":             {s.token(now, object{"x5cInsecure": nil}, nil), "no certificate"},
		"an empty list":              {s.token(now, object{"x5cInsecure": []string{}}, nil), "no certificate"},
		"too many":                   {s.token(now, object{"x5cInsecure": []string{theirs, theirs, theirs, theirs, theirs}}, nil), ""},
		"no certificate at all":      {s.token(now, object{"x5cInsecure": []string{"AAAA"}}, nil), "can not be read"},
		"no algorithm":               {s.token(now, object{"alg": "none"}, nil), "signature"},
		"an HMAC":                    {s.token(now, object{"alg": "HS256"}, nil), "signature"},
		"another curve's":            {s.token(now, object{"alg": "ES384"}, nil), "signature"},
		"what must be understood":    {s.token(now, object{"crit": []string{"b64"}, "b64": false}, nil), "no certificate"},
		"no signature":               {good[0] + "." + good[1] + ".", "signature"},
		"another signature":          {good[0] + "." + good[1] + "." + strings.Split(other.token(now, nil, nil), ".")[2], "signature"},
		"altered":                    {good[0] + "." + strings.Split(s.token(now, nil, object{"exp": now.Add(6 * time.Minute).Unix()}), ".")[1] + "." + good[2], "signature"},
		"a short key":                {newShelf(t, short, "RS256").token(now, nil, nil), "signature"},
		"another's name":             {s.token(now, nil, object{"sub": "pump-2"}), "not made by step"},
		"another maker":              {s.token(now, nil, object{"iss": "anteroom"}), "not made by step"},
		"another host":               {s.token(now, nil, object{"aud": "https://elsewhere.example/renew"}), "another place"},
		"another host besides":       {s.token(now, nil, object{"aud": []string{"https://gw.example/renew", "https://elsewhere.example/renew"}}), "another place"},
		"another thing":              {s.token(now, nil, object{"aud": "https://gw.example/1.0/sign"}), "another place"},
		"nowhere":                    {s.token(now, nil, object{"aud": nil}), "another place"},
		"over":                       {s.token(now.Add(-time.Hour), nil, nil), "clock"},
		"to come":                    {s.token(now.Add(time.Hour), nil, nil), "clock"},
		"issued later":               {s.token(now, nil, object{"iat": now.Add(5 * time.Minute).Unix()}), "clock"},
		"without an end":             {s.token(now, nil, object{"exp": nil}), "clock"},
		"good for long":              {s.token(now, nil, object{"exp": now.Add(2 * time.Hour).Unix()}), "clock"},
		"an end that is no number":   {s.token(now, nil, object{"exp": "x"}), "claims"},
		"an end beyond all":          {s.token(now, nil, object{"exp": int64(1) << 62}), "clock"},
		"two parts":                  {good[0] + "." + good[1], "not a JWT"},
		"another alphabet":           {good[0] + "+." + good[1] + "." + good[2], "not a JWT"},
		"nothing":                    {"", "not a JWT"},
		"more than there can be":     {strings.Repeat("A", maxRenewal) + "." + good[1] + "." + good[2], "not a JWT"},
		"no object":                  {base64.RawURLEncoding.EncodeToString([]byte("1")) + "." + good[1] + "." + good[2], "no certificate"},
		"a token that enrols":        {mustToken(t, now), "no certificate"},
		"an audience that is no URL": {s.token(now, nil, object{"aud": "https://gw.example:x/renew"}), "another place"},
	} {
		if _, err := renewing(c.token, "gw.example", now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func mustToken(t *testing.T, now time.Time) string {
	t.Helper()
	out, err := Token("K7Q2MXA-AAAAAAA-BBBBBBB-CCCCCCC-DDDDDDD", "pump-1", "https://gw.example", strings.Repeat("ab", 32), now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzRenewing(f *testing.F) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	s := newShelf(f, ecKey(f, elliptic.P256()), "ES256")
	f.Add(s.token(now, nil, nil))
	f.Add("..")
	f.Fuzz(func(t *testing.T, jwt string) {
		if leaf, err := renewing(jwt, "gw.example", now); err == nil && leaf == nil {
			t.Error("neither a certificate nor an error")
		}
	})
}
