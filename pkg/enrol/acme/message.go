package acme

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

// A signed is a JWS in flattened form (RFC 7515 §7.2.2) that was taken apart.
type signed struct {
	alg, kid, nonce, url string
	key                  json.RawMessage // jwk
	payload, sig         []byte
	text                 []byte // that is signed
}

var errNoJWS = errors.New("the body is no JWS in flattened JSON form with protected, payload and signature")

// readSigned takes a JWS apart. Nothing of it is believed yet.
func readSigned(body []byte) (*signed, error) {
	o, err := object(body)
	if err != nil || len(o) != 3 {
		return nil, errNoJWS
	}
	var part [3]string
	var raw [3][]byte
	for i, name := range []string{"protected", "payload", "signature"} {
		if _, ok := o[name]; !ok {
			return nil, errNoJWS
		}
		if part[i], err = text(o, name); err != nil {
			return nil, errNoJWS
		}
		if raw[i], err = decode64(part[i]); err != nil {
			return nil, errNoJWS
		}
	}
	h, err := object(raw[0])
	if err != nil {
		return nil, errors.New("the protected header is no JSON object with each name once")
	}
	s := &signed{payload: raw[1], sig: raw[2], text: []byte(part[0] + "." + part[1])}
	for name, at := range map[string]*string{"alg": &s.alg, "kid": &s.kid, "nonce": &s.nonce, "url": &s.url} {
		if *at, err = text(h, name); err != nil {
			return nil, errors.New("in the protected header, " + err.Error())
		}
		delete(h, name)
	}
	s.key = h["jwk"]
	delete(h, "jwk")
	if len(h) > 0 {
		// crit and b64 among them, which change what the rest means.
		return nil, errors.New("the protected header has fields beside alg, jwk, kid, nonce and url")
	}
	return s, nil
}

// who says whose signature a request has to have.
type who uint8

const (
	anAccount who = iota + 1 // one that is named by its URL
	anyKey                   // one that is in the request
	either                   // one of the two
)

// read reads a request and holds it to RFC 8555 §6.2 to §6.5. The nonce is used up
// when it returns nil.
func (c *call) read(from who) *fault {
	if t, _, _ := strings.Cut(c.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(t), "application/jose+json") {
		return faulty(malformed, http.StatusUnsupportedMediaType, enrol.BadRequest, "a request has the type application/jose+json (RFC 8555 section 6.2)")
	}
	m, err := readSigned(c.Body)
	if err != nil {
		return notWellFormed("%v", err)
	}
	if m.url != c.base()+c.URL.Path {
		return notAllowed("the request is signed for another URL (RFC 8555 section 6.4)")
	}
	if !slices.Contains(algorithms, m.alg) {
		return faulty(badSignatureAlgorithm, http.StatusBadRequest, enrol.BadRequest, "the algorithm is not one of those taken here")
	}
	nonce, ok := c.s.nonces.fresh(m.nonce)
	if !ok {
		f := faulty(badNonce, http.StatusBadRequest, enrol.BadProof, "the nonce is not one of ours, or its time is over")
		f.quiet = true // after a restart, or a pause
		return f
	}
	if f := c.signer(m, from); f != nil {
		return f
	}
	if err := jws.Verify(c.key.key, m.alg, m.text, m.sig); err != nil {
		return notAllowed("the signature: %v", err)
	}
	if !c.s.nonces.use(nonce, c.account == nil) {
		return faulty(badNonce, http.StatusBadRequest, enrol.BadProof, "the nonce was used before")
	}
	c.payload = m.payload
	if c.account == nil {
		return nil
	}
	// Now that it is sure who asks.
	c.device = c.account.Device
	rec, err := c.s.registrar.May(c.account.Device, c.account.Opened, c.account.Again)
	if err != nil {
		return ofUnrecorded(err)
	}
	c.record = rec
	return nil
}

// ofUnrecorded is ofRefusal for a refusal that nobody recorded.
func ofUnrecorded(err error) *fault {
	why, ok := errors.AsType[*enrol.Refusal](err)
	if !ok {
		return ours(err)
	}
	f := ofRefusal(why)
	f.refusal = nil
	return f
}

// signer finds the key that a request has to be signed with.
func (c *call) signer(m *signed, from who) *fault {
	if (m.kid == "") == (m.key == nil) {
		return notWellFormed("the protected header needs either jwk or kid (RFC 8555 section 6.2)")
	}
	var err error
	if from == anyKey || from == either && m.key != nil {
		if m.key == nil {
			return notWellFormed("this request is signed with a key that is in it (jwk)")
		}
		if c.key, err = readJWK(m.key); err != nil {
			return faulty(badPublicKey, http.StatusBadRequest, enrol.BadRequest, "the account's key: %v", err)
		}
		return nil
	}
	id, ok := cutAccount(m.kid)
	if !ok {
		return notWellFormed("this request is signed with an account's key, and names the account by its URL (kid)")
	}
	c.account, err = c.s.accountOf(c.Context(), id)
	switch {
	case err != nil:
		return ours(err)
	case c.account == nil:
		return faulty(accountDoesNotExist, http.StatusBadRequest, enrol.BadProof, "there is no such account; it may have ended when another was opened for its device")
	}
	if c.key, err = readJWK(c.account.Key); err != nil {
		return ours(err)
	}
	return nil
}

// cutAccount returns the id in an account's URL. The host does not count: the
// signed URL of the request says where it goes, and a gateway may be known by
// several names.
func cutAccount(kid string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(kid, "https://")
	if !ok {
		return "", false
	}
	_, rest, _ = strings.Cut(rest, "/")
	id, ok = strings.CutPrefix("/"+rest, accountPath)
	return id, ok && validID(id)
}

// binding reads the external account that a new account is to be bound to
// (RFC 8555 §7.3.4).
func (c *call) binding(raw json.RawMessage) (*enrol.Opening, *fault) {
	m, err := readSigned(raw)
	if err != nil {
		return nil, notWellFormed("the external account binding: %v", err)
	}
	switch {
	case m.alg != "HS256":
		return nil, faulty(badSignatureAlgorithm, http.StatusBadRequest, enrol.BadRequest, "the external account binding is made with HS256")
	case m.kid == "" || m.key != nil || m.nonce != "":
		return nil, notWellFormed("the external account binding has a kid, and neither jwk nor nonce")
	case m.url != c.base()+c.URL.Path:
		return nil, notAllowed("the external account binding is made for another URL")
	}
	bound, err := readJWK(m.payload)
	if err != nil || bound.thumbprint() != c.key.thumbprint() {
		return nil, notAllowed("the external account binding is made for another key than the account's")
	}
	return &enrol.Opening{Binding: m.kid, Key: c.key.thumbprint(), Holds: func(key []byte) bool {
		h := hmac.New(sha256.New, key)
		h.Write(m.text)
		return hmac.Equal(h.Sum(nil), m.sig)
	}}, nil
}
