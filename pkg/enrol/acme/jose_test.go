package acme

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	xacme "golang.org/x/crypto/acme"

	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

// TestAKeysNameIsTheOneOthersGiveIt: thumbprints are those of another
// implementation, for each kind of key.
func TestAKeysNameIsTheOneOthersGiveIt(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	jwkOf := func(pub any) string {
		switch k := pub.(type) {
		case *rsa.PublicKey:
			return fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQAB","use":"sig","kid":"x"}`, b64(k.N.Bytes()))
		case *ecdsa.PublicKey:
			b, err := k.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			n := (len(b) - 1) / 2
			return fmt.Sprintf(`{"y":%q,"x":%q,"crv":%q,"kty":"EC"}`, b64(b[1+n:]), b64(b[1:1+n]), k.Curve.Params().Name)
		}
		return ""
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		same(t, jwkOf(key.Public()), key.Public())
	}
	same(t, jwkOf(r.Public()), r.Public())
	// RFC 8037 appendix A.3.
	k, err := readJWK([]byte(`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`))
	if err != nil || k.thumbprint() != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("%v, %v", k, err)
	}
	if _, ok := k.key.(ed25519.PublicKey); !ok {
		t.Errorf("%T", k.key)
	}
}

func same(t *testing.T, text string, pub any) {
	t.Helper()
	k, err := readJWK([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	want, err := xacme.JWKThumbprint(pub)
	if err != nil || k.thumbprint() != want {
		t.Errorf("%s, want %s, %v", k.thumbprint(), want, err)
	}
	if _, err := jws.Algorithm(k.key); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoPublicKeyIsRefused(t *testing.T) {
	good := `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}` // RFC 7515 A.3
	if _, err := readJWK([]byte(good)); err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		``, `{}`, `[]`, `null`, `{"kty":"oct","k":"AAAA"}`, `{"kty":7}`,
		strings.Replace(good, `"kty"`, `"d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI","kty"`, 1),
		strings.Replace(good, `"kty":"EC"`, `"kty":"EC","kty":"EC"`, 1),
		strings.Replace(good, "x_FEz", "x_FEy", 1),    // not on the curve
		strings.Replace(good, `"y":"`, `"y":"AA`, 1),  // another length
		strings.Replace(good, "P-256", "P-224", 1),    // another curve
		strings.Replace(good, `WI5a0"`, `WI5a0="`, 1), // another spelling
		`{"kty":"OKP","crv":"Ed448","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQAB"}`, b64(small.N.Bytes())),
		fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQ"}`, b64(make([]byte, 256))),
	} {
		if k, err := readJWK([]byte(bad)); err == nil {
			t.Errorf("%s is taken for %T", bad, k.key)
		}
	}
}

// FuzzSigned: what is taken apart is what everybody would read.
func FuzzSigned(f *testing.F) {
	f.Add([]byte(`{"protected":"` + b64([]byte(`{"alg":"ES256","nonce":"a","url":"https://a/","kid":"https://a/acme/account/b"}`)) + `","payload":"e30","signature":"AAAA"}`))
	f.Add([]byte(`{"protected":"` + b64([]byte(`{"alg":"ES256","jwk":{"kty":"EC"}}`)) + `","payload":"","signature":""}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := readSigned(body)
		if err != nil {
			return
		}
		var flat map[string]string
		if err := json.Unmarshal(body, &flat); err != nil || len(flat) != 3 || string(m.text) != flat["protected"]+"."+flat["payload"] {
			t.Fatalf("%q is read as %q: %v", body, m.text, err)
		}
		head, err := decode64(flat["protected"])
		if err != nil {
			t.Fatal(err)
		}
		var h struct {
			Alg, Kid, Nonce, URL string
			JWK                  json.RawMessage
		}
		if err := json.Unmarshal(head, &h); err != nil || h.Alg != m.alg || h.Kid != m.kid || h.Nonce != m.nonce || h.URL != m.url {
			t.Fatalf("%q is read as %+v, and by others as %+v, %v", head, m, h, err)
		}
		if m.key != nil {
			if k, err := readJWK(m.key); err == nil {
				_ = k.thumbprint()
			}
		}
	})
}

func TestANonceIsGoodOnce(t *testing.T) {
	now := time.Now()
	n := newNonces(func() time.Time { return now })
	text := n.make()
	body, ok := n.fresh(text)
	if !ok || !n.use(body, false) || n.use(body, false) {
		t.Error("a nonce is not good exactly once")
	}
	now = now.Add(nonceLife - 2*time.Second)
	if body, ok := n.fresh(text); !ok || n.use(body, false) {
		t.Error("a used nonce is good again while its time is not over")
	}
	now = now.Add(2 * time.Second)
	late := n.make()
	now = now.Add(nonceLife - 2*time.Second)
	if body, ok := n.fresh(late); !ok || !n.use(body, false) || n.use(body, false) {
		t.Error("a nonce is not good until its time is over")
	}
	if _, ok := n.fresh(text); ok {
		t.Error("an old nonce is fresh")
	}
	if _, ok := newNonces(func() time.Time { return now }).fresh(n.make()); ok {
		t.Error("another process's nonce is fresh")
	}
	for _, bad := range []string{"", "AAAA", late[:len(late)-1], late + "A", strings.ToUpper(late)} {
		if _, ok := n.fresh(bad); ok {
			t.Errorf("%q is fresh", bad)
		}
	}
	// What is remembered has an end, and strangers leave the half of it.
	for range mostUsed {
		if body, ok := n.fresh(n.make()); ok {
			n.use(body, true)
		}
	}
	if body, ok := n.fresh(n.make()); !ok || n.use(body, true) || !n.use(body, false) {
		t.Error("strangers keep an account's nonce from being good")
	}
	for range mostUsed + 10 {
		if body, ok := n.fresh(n.make()); ok {
			n.use(body, false)
		}
	}
	if len(n.now)+len(n.old) > 2*mostUsed {
		t.Errorf("%d are remembered", len(n.now)+len(n.old))
	}
	if body, ok := n.fresh(n.make()); !ok || n.use(body, false) {
		t.Error("with no room left a nonce can be used unseen")
	}
}
