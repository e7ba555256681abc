package step

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// maxToken bounds a JWT that is looked at.
const maxToken = 4 << 10

// claims are those of the token that step's ca commands take.
type claims struct {
	Issuer    string   `json:"iss"`
	Audience  string   `json:"aud"`
	Subject   string   `json:"sub"`
	SANs      []string `json:"sans"`
	Root      string   `json:"sha"`
	ID        string   `json:"jti"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	Expires   int64    `json:"exp"`
}

// Token returns a one-time token in the form that step takes. base is the
// enrolment listener's URL, root the SHA-256 of the root certificate in hex.
func Token(token, device, base, root string, now, expires time.Time) (string, error) {
	body, err := json.Marshal(claims{
		Issuer: "anteroom", Audience: base + "/1.0/sign", Subject: device, SANs: []string{device}, Root: root, ID: token,
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expires: expires.Unix(),
	})
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString(body)
	h := hmac.New(sha256.New, []byte(token))
	h.Write([]byte(text))
	return text + "." + enc.EncodeToString(h.Sum(nil)), nil
}

// open returns of a JWT the token it carries and the device it names. Nothing in
// it is believed: what they are worth is the registrar's to say.
func open(jwt string) (token, device string, ok bool) {
	parts := strings.Split(jwt, ".")
	if len(jwt) > maxToken || len(parts) != 3 {
		return "", "", false
	}
	body, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return "", "", false
	}
	var c claims
	if err := json.Unmarshal(body, &c); err != nil {
		return "", "", false
	}
	return c.ID, c.Subject, true
}
