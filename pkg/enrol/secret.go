package enrol

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// A token as people see it is five groups of seven letters and digits, such as
// K7Q2MXA-…: the first group names the token and is no secret, the others are
// 140 random bits. The alphabet is Crockford's base 32, without the letters that
// are taken for digits or for each other; it is what QR codes hold in least
// space. Reading takes lower case, and O, I and L for what they look like.
const (
	alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	groupLen = 7
	groups   = 5
	tokenLen = groups * groupLen
	// maxTokenText bounds what is looked at as a token.
	maxTokenText = 64
)

// newTokenText returns a new token's parts.
func newTokenText() (handle, secret string) {
	raw := make([]byte, (tokenLen*5+7)/8)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	text := base32.NewEncoding(alphabet).WithPadding(base32.NoPadding).EncodeToString(raw)[:tokenLen]
	return text[:groupLen], text[groupLen:]
}

// written returns a token as people see it.
func written(handle, secret string) string {
	text := handle + secret
	parts := make([]string, groups)
	for i := range parts {
		parts[i] = text[i*groupLen : (i+1)*groupLen]
	}
	return strings.Join(parts, "-")
}

// parseToken reads a token as people write it. ok is false if it is none.
func parseToken(text string) (handle, secret string, ok bool) {
	if len(text) > maxTokenText {
		return "", "", false
	}
	var b strings.Builder
	for _, c := range []byte(text) {
		switch {
		case c == '-' || c == ' ':
			continue
		case c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		switch c {
		case 'O':
			c = '0'
		case 'I', 'L':
			c = '1'
		}
		if strings.IndexByte(alphabet, c) < 0 {
			return "", "", false
		}
		b.WriteByte(c)
	}
	if b.Len() != tokenLen {
		return "", "", false
	}
	return b.String()[:groupLen], b.String()[groupLen:], true
}

// mac is what is kept of a token in place of its secret. It binds the secret to
// the token's name, the device and the end, so that nobody who can write to the
// store without having the key makes one token into another.
func mac(key []byte, t *Token, secret string) string {
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "anteroom enrolment token 1\n%s\n%s\n%s\n%t\n%s", t.Handle, t.Device, t.Expires.UTC().Format(time.RFC3339Nano), t.Again, secret)
	return hex.EncodeToString(h.Sum(nil))
}

// keyBytes is the size of the key of mac.
const keyBytes = 32

// loadKey reads the key of mac, or makes it: a file of its own, so that a copy of
// the store alone says nothing of secrets.
func loadKey(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key of enrolment tokens: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(key) != keyBytes {
		return nil, fmt.Errorf("key of enrolment tokens: %s does not hold %d bytes in hex", path, keyBytes)
	}
	return key, nil
}

func makeKey(path string) ([]byte, error) {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	if err := durable.Replace(path, fmt.Appendln(nil, hex.EncodeToString(key)), 0o600); err != nil {
		return nil, fmt.Errorf("key of enrolment tokens: %w", err)
	}
	return key, nil
}
