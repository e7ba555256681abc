package acme

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"
)

const (
	// nonceLife is how long a nonce is good.
	nonceLife = 10 * time.Minute
	// mostUsed bounds the used nonces that are remembered of one nonceLife. Only a
	// request whose signature holds uses one up, so that a flood of nonces that
	// were merely asked for takes no memory and displaces nobody's. Requests signed
	// with a key of their own are anybody's: half of it is for accounts alone.
	mostUsed      = 1 << 16
	mostStrangers = mostUsed / 2

	nonceBody = 8 + 16 // a time, and what is random
	nonceLen  = nonceBody + 16
)

// nonces makes nonces and takes each back once (RFC 8555 §6.5). They say themselves
// when they were made, under a key of this process: those of a former one are
// worth nothing.
type nonces struct {
	key   [32]byte
	clock func() time.Time

	mu       sync.Mutex
	now, old map[[nonceBody]byte]bool // used within this nonceLife, and the one before
	since    time.Time                // when this one began
}

func newNonces(clock func() time.Time) *nonces {
	n := &nonces{clock: clock, now: map[[nonceBody]byte]bool{}}
	_, _ = rand.Read(n.key[:]) // never fails (crypto/rand)
	return n
}

// make returns a new nonce.
func (n *nonces) make() string {
	var b [nonceLen]byte
	binary.BigEndian.PutUint64(b[:], uint64(n.clock().Unix()))
	_, _ = rand.Read(b[8:nonceBody]) // never fails (crypto/rand)
	copy(b[nonceBody:], n.mac(b[:nonceBody]))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (n *nonces) mac(body []byte) []byte {
	h := hmac.New(sha256.New, n.key[:])
	h.Write(body)
	return h.Sum(nil)[:nonceLen-nonceBody]
}

// fresh returns what is remembered of a nonce that is ours and whose time is not
// over.
func (n *nonces) fresh(text string) (body [nonceBody]byte, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != nonceLen || !hmac.Equal(n.mac(b[:nonceBody]), b[nonceBody:]) {
		return body, false
	}
	age := n.clock().Sub(time.Unix(int64(binary.BigEndian.Uint64(b)), 0))
	return [nonceBody]byte(b[:nonceBody]), age < nonceLife
}

// use takes a fresh nonce back of a request of an account, or of a stranger. It
// reports whether that is the first time.
func (n *nonces) use(body [nonceBody]byte, stranger bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := n.clock(); now.Sub(n.since) >= nonceLife {
		// What was used before the last nonceLife is not fresh any more.
		n.old, n.now, n.since = n.now, map[[nonceBody]byte]bool{}, now
	}
	most := mostUsed
	if stranger {
		most = mostStrangers
	}
	if n.now[body] || n.old[body] || len(n.now) >= most {
		return false
	}
	n.now[body] = true
	return true
}
