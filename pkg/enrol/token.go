package enrol

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// Tables of the store: tokens by handle, and the handle of the one token that a
// device can have by its id.
const (
	tokenTable  = "enrolment-tokens"
	deviceTable = "enrolment-token-of"
)

const (
	// MinTokenTTL and MaxTokenTTL bound how long a token is good.
	MinTokenTTL = time.Minute
	MaxTokenTTL = 30 * 24 * time.Hour
	// tokenKept is how long a token that is over stays in lists.
	tokenKept = 7 * 24 * time.Hour
)

// A Token is a one-time token as it is kept: everything but its secret.
type Token struct {
	Handle  string    `json:"handle"`
	Device  string    `json:"device"`
	Again   bool      `json:"again,omitempty"` // it enrols a revoked device anew
	By      string    `json:"by"`              // the operator who made it
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Used is when it was, Key the key it was used for and Leaf the certificate
	// it brought.
	Used time.Time `json:"used,omitzero"`
	Key  string    `json:"key,omitempty"`
	Leaf []byte    `json:"leaf,omitempty"`
	// MAC stands for the secret; see mac.
	MAC string `json:"mac"`
}

// Tokens keeps one-time tokens. It is safe for concurrent use.
type Tokens struct {
	st    store.Store
	key   []byte
	clock func() time.Time
}

// OpenTokens opens the tokens in a store. The file at keyPath holds the key under
// which their secrets are kept; it is made if it is not there.
func OpenTokens(st store.Store, keyPath string, clock func() time.Time) (*Tokens, error) {
	key, err := loadKey(keyPath)
	if err != nil {
		return nil, err
	}
	return &Tokens{st, key, clock}, nil
}

// Create makes a token for a device and returns it as people see it; nothing can
// show it again. A token the device had before is withdrawn if it was not used:
// one is looked for when the other has been lost.
func (t *Tokens) Create(ctx context.Context, deviceID, by string, ttl time.Duration, again bool) (text string, tok *Token, err error) {
	if ttl < MinTokenTTL || ttl > MaxTokenTTL {
		return "", nil, fmt.Errorf("%w lifetime %v of a token: it goes from %v to %v", device.ErrInvalid, ttl, MinTokenTTL, MaxTokenTTL)
	}
	now := t.clock().UTC()
	handle, secret := newTokenText()
	tok = &Token{Handle: handle, Device: deviceID, Again: again, By: by, Created: now, Expires: now.Add(ttl)}
	tok.MAC = mac(t.key, tok, secret)
	err = t.st.Update(ctx, func(w store.Writer) error {
		if _, err := w.Get(tokenTable, handle); !errors.Is(err, store.ErrNotFound) {
			return cmp.Or(err, errors.New("a token's name came up twice: try again"))
		}
		if err := forget(w, deviceID); err != nil {
			return err
		}
		if err := put(w, tok); err != nil {
			return err
		}
		return w.Put(deviceTable, deviceID, []byte(handle))
	})
	if err != nil {
		return "", nil, fmt.Errorf("token for %s: %w", deviceID, err)
	}
	return written(handle, secret), tok, nil
}

func put(w store.Writer, tok *Token) error {
	value, err := json.Marshal(tok)
	if err != nil {
		return err
	}
	return w.Put(tokenTable, tok.Handle, value)
}

func get(r store.Reader, handle string) (*Token, error) {
	value, err := r.Get(tokenTable, handle)
	if err != nil {
		return nil, err
	}
	tok := new(Token)
	if err := json.Unmarshal(value, tok); err != nil {
		return nil, fmt.Errorf("token %s: %w", handle, err)
	}
	return tok, nil
}

// forget removes a device's token if it was not used.
func forget(w store.Writer, deviceID string) error {
	handle, err := w.Get(deviceTable, deviceID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	tok, err := get(w, string(handle))
	if err == nil && tok.Used.IsZero() {
		err = w.Delete(tokenTable, tok.Handle)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return w.Delete(deviceTable, deviceID)
}

// Withdraw removes the token of a device that has not used it. That there is none
// is no error.
func (t *Tokens) Withdraw(ctx context.Context, deviceID string) error {
	err := t.st.Update(ctx, func(w store.Writer) error { return forget(w, deviceID) })
	if err != nil {
		return fmt.Errorf("withdraw the token of %s: %w", deviceID, err)
	}
	return nil
}

// Revoke removes a token by its handle.
func (t *Tokens) Revoke(ctx context.Context, handle string) (*Token, error) {
	var tok *Token
	err := t.st.Update(ctx, func(w store.Writer) (err error) {
		if tok, err = get(w, handle); err != nil {
			return err
		}
		if !tok.Used.IsZero() {
			return fmt.Errorf("%w: it was used at %s; revoke the device instead", device.ErrTransition, tok.Used.Format(time.RFC3339))
		}
		return forget(w, tok.Device)
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("token: %w", errNoToken)
	}
	if err != nil {
		return nil, fmt.Errorf("token %s: %w", handle, err)
	}
	return tok, nil
}

// errNoToken is [device.ErrNotFound] in the words of tokens.
var errNoToken = noToken{}

type noToken struct{}

func (noToken) Error() string        { return "there is none with this name" }
func (noToken) Is(target error) bool { return target == device.ErrNotFound }

// List returns the tokens there are, without what stands for their secrets, the
// youngest first, and forgets those that have been over for a week.
func (t *Tokens) List(ctx context.Context) ([]Token, error) {
	var out, old []Token
	over := t.clock().Add(-tokenKept)
	err := t.st.View(ctx, func(r store.Reader) error {
		return r.Each(tokenTable, "", func(handle string, value []byte) error {
			var tok Token
			if err := json.Unmarshal(value, &tok); err != nil {
				return fmt.Errorf("token %s: %w", handle, err)
			}
			if tok.Expires.Before(over) {
				old = append(old, tok)
				return nil
			}
			tok.MAC, tok.Leaf = "", nil
			out = append(out, tok)
			return nil
		})
	})
	if err == nil && len(old) > 0 {
		err = t.st.Update(ctx, func(w store.Writer) error {
			for _, tok := range old {
				if err := w.Delete(tokenTable, tok.Handle); err != nil {
					return err
				}
				if h, err := w.Get(deviceTable, tok.Device); err == nil && string(h) == tok.Handle {
					if err := w.Delete(deviceTable, tok.Device); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	slices.SortFunc(out, func(a, b Token) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Handle, b.Handle)) })
	return out, nil
}

// find returns the token with a text. Whether it is still good is not looked at.
func (t *Tokens) find(ctx context.Context, text string) (*Token, error) {
	handle, secret, ok := parseToken(text)
	if !ok {
		return nil, unknownToken()
	}
	tok, err := t.named(ctx, handle)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal([]byte(mac(t.key, tok, secret)), []byte(tok.MAC)) {
		return nil, unknownToken()
	}
	return tok, nil
}

// named returns the token with a name, or one that nothing proves: somebody who
// guesses must not learn by the time it takes whether a name is known.
func (t *Tokens) named(ctx context.Context, handle string) (*Token, error) {
	var tok *Token
	err := t.st.View(ctx, func(r store.Reader) (err error) { tok, err = get(r, handle); return err })
	if errors.Is(err, store.ErrNotFound) {
		return &Token{Handle: handle}, nil
	}
	return tok, err
}

// inTime refuses a token whose time is over.
func (t *Tokens) inTime(tok *Token) error {
	if !t.clock().Before(tok.Expires) {
		return refuse(BadProof, "the token for %s expired at %s: ask for another", tok.Device, tok.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// unused returns the token with a name to who is about to use it up.
func unused(w store.Writer, handle string) (*Token, error) {
	tok, err := get(w, handle)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, unknownToken()
	case err != nil:
		return nil, err
	case !tok.Used.IsZero():
		return nil, usedToken(tok)
	}
	return tok, nil
}

func unknownToken() error {
	return &Refusal{Code: BadProof, Why: "the token is not known: it was mistyped, withdrawn, or never made here"}
}

// A Secret proves by a one-time token.
type Secret struct{ Text string }

// Name implements [Proof].
func (Secret) Name() string { return "token" }

func (s Secret) stand(ctx context.Context, g *Registrar, _ *Request) (*standing, error) {
	t := g.cfg.Tokens
	tok, err := t.find(ctx, s.Text)
	if err != nil {
		return nil, err
	}
	st := &standing{id: tok.Device, again: tok.Again}
	if err := t.inTime(tok); err != nil {
		return st, err
	}
	st.request = func(csr *signingRequest) error {
		if err := csr.strictNames(g.cfg.Devices, tok.Device); err != nil || tok.Used.IsZero() {
			return err
		}
		if tok.Key != csr.key { // as is what an ACME account was opened with
			return usedToken(tok)
		}
		leaf, err := x509.ParseCertificate(tok.Leaf)
		st.issued = leaf
		return err
	}
	st.check = tok.serves
	st.spend = func(w store.Writer, csr *signingRequest, leaf *x509.Certificate) error {
		now, err := unused(w, tok.Handle)
		if err != nil {
			return err
		}
		now.Used, now.Key, now.Leaf = t.clock().UTC(), csr.key, leaf.Raw
		return put(w, now)
	}
	return st, nil
}

func usedToken(tok *Token) error {
	return refuse(BadProof, "the token for %s was used at %s, and is good once: ask for another", tok.Device, tok.Used.UTC().Format(time.RFC3339))
}

// serves reports whether the token is good for a device as it is now. What was
// withdrawn after the token was made is not brought back by it.
func (tok *Token) serves(rec *device.Record) error { return serves(rec, tok.Created, tok.Again) }

// serves reports whether what was made for a device at a time is still good for
// it; again says that it was made to bring a revoked device back.
func serves(rec *device.Record, made time.Time, again bool) error {
	if in := rec.Status == device.Pending || rec.Status == device.Active; !in && (rec.Status != device.Revoked || !again) {
		return refusedStatus(rec, "and is not enrolled with this token")
	}
	if rec.RevokedAt.After(made) {
		return refuse(BadProof, "the token for %s is from before it was revoked: ask for another", rec.ID)
	}
	return nil
}

// WithdrawAll removes every token that was not used, and takes every approval back.
// What was used after the state that a store holds is not known there.
func WithdrawAll(ctx context.Context, st store.Store) error {
	err := st.Update(ctx, func(w store.Writer) error {
		var of []string
		if err := w.Each(deviceTable, "", func(id string, _ []byte) error { of = append(of, id); return nil }); err != nil {
			return err
		}
		for _, id := range of {
			if err := forget(w, id); err != nil {
				return err
			}
		}
		return disapproveAll(w)
	})
	if err != nil {
		return fmt.Errorf("withdraw all tokens and approvals: %w", err)
	}
	return nil
}
