package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// holds fails the test unless an answer is an error of a type, and was recorded.
func (h *hall) holds(what string, a *answer, status int, problem, text string) {
	h.t.Helper()
	if a.status != status || a.problem() != problem || !strings.Contains(a.text("detail"), text) || a.head.Get("Content-Type") != "application/problem+json" {
		h.t.Errorf("%s: %d %s, want %d %s with %q", what, a.status, a.body, status, problem, text)
	}
}

// TestAServerShowsBothItsNames and is given one certificate for them, which it
// reads with its account and nobody else does.
func TestAServerShowsBothItsNames(t *testing.T) {
	t.Parallel()
	h, s, c := neighbours(t)
	o, _ := c.order(ident{"type": "dns", "value": lis}, ident{"type": "dns", "value": lis2})
	for i := range 2 {
		ch := c.challenges(o, i)[http01]
		s.does(func(w http.ResponseWriter, r *http.Request) {
			if want := []string{lis, lis2}[i] + fmt.Sprintf(":%d", s.port); r.Host != want || r.URL.Path != "/.well-known/acme-challenge/"+ch["token"].(string) {
				t.Errorf("the gateway asks %s for %s", r.Host, r.URL)
			}
			fmt.Fprintln(w, c.authorization(ch))
		})
		if i == 0 {
			h.holds("finishing too early", c.post(o.text("finalize"), csrFor(t, newKey(t), "", lis, lis2)), http.StatusForbidden, orderNotReady, "pending")
		}
		if a := c.post(ch["url"].(string), map[string]any{}); a.status != http.StatusOK || a.text("status") != "valid" || a.text("validated") == "" {
			t.Fatalf("the challenge: %d %s", a.status, a.body)
		}
		// Answered is answered.
		if a := c.post(ch["url"].(string), map[string]any{}); a.text("status") != "valid" {
			t.Errorf("the challenge once more: %s", a.body)
		}
	}
	if s.asked.Load() != 2 {
		t.Errorf("the site was asked %d times", s.asked.Load())
	}
	if a := c.again(o); a.text("status") != "ready" {
		t.Fatalf("the order: %s", a.body)
	}
	h.holds("a signing request for one of the names", c.post(o.text("finalize"), csrFor(t, newKey(t), "", lis)), http.StatusBadRequest, badCSR, "all of them")
	h.holds("no base64", c.post(o.text("finalize"), map[string]string{"csr": "a+b="}), http.StatusBadRequest, badCSR, "base64url")
	h.holds("no signing request", c.post(o.text("finalize"), map[string]string{"csr": b64([]byte("hello"))}), http.StatusBadRequest, badCSR, "malformed")
	h.holds("the account's own key is no name", c.post(o.text("finalize"), map[string]string{}), http.StatusBadRequest, malformed, "no signing request")
	key := newKey(t)
	done := c.post(o.text("finalize"), csrFor(t, key, lis, lis, lis2))
	if done.status != http.StatusOK || done.text("status") != "valid" {
		t.Fatalf("finalize: %d %s", done.status, done.body)
	}
	chain := c.post(done.text("certificate"), nil)
	block, rest := pem.Decode(chain.body)
	if block == nil || chain.head.Get("Content-Type") != "application/pem-certificate-chain" || strings.Count(string(rest), "BEGIN CERTIFICATE") != 1 {
		t.Fatalf("the certificate: %s", chain.body)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !slices.Equal(leaf.DNSNames, []string{lis, lis2}) || len(leaf.URIs) != 0 {
		t.Errorf("%v %v, %v", leaf.DNSNames, leaf.URIs, err)
	}
	h.holds("finishing twice", c.post(o.text("finalize"), csrFor(t, key, lis, lis, lis2)), http.StatusForbidden, orderNotReady, "valid")
	other := h.register(&device.Record{ID: "ris-1"})
	for _, url := range []string{o.head.Get("Location"), done.text("certificate"), o.json["authorizations"].([]any)[0].(string), c.challenges(o, 0)[http01]["url"].(string)} {
		h.holds("another's "+url, other.post(url, nil), http.StatusNotFound, malformed, "no such thing")
	}
	h.holds("another's account", other.post(c.kid, nil), http.StatusForbidden, unauthorized, "another's")
	list := c.post(strings.Replace(c.kid, accountPath, ordersPath, 1), nil)
	if !strings.Contains(string(list.body), o.head.Get("Location")) {
		t.Errorf("the orders: %s", list.body)
	}
	if rec, _ := h.devices.Get("lis-1"); len(rec.Certificates) != 1 || rec.Certificates[0].Way != "acme" || rec.Status != device.Active {
		t.Errorf("%+v", rec)
	}
}

// TestARequestIsHeldToItsForm: each thing that can be wrong with a signed request
// has its error and its record.
func TestARequestIsHeldToItsForm(t *testing.T) {
	t.Parallel()
	h, _, c := neighbours(t)
	ids := map[string]any{"identifiers": []ident{{"type": "dns", "value": lis}}}
	for what, x := range map[string]struct {
		wrong         func()
		status        int
		problem, text string
		quiet         bool
	}{
		"another type of body":    {func() { c.contentType = "application/json" }, http.StatusUnsupportedMediaType, malformed, "jose+json", false},
		"another's URL":           {func() { c.url = h.url + newAccount }, http.StatusForbidden, unauthorized, "another URL", false},
		"no algorithm":            {func() { c.alg = "none" }, http.StatusBadRequest, badSignatureAlgorithm, "", false},
		"the key as a secret":     {func() { c.alg = "HS256" }, http.StatusBadRequest, badSignatureAlgorithm, "", false},
		"another key's algorithm": {func() { c.alg = "RS256" }, http.StatusForbidden, unauthorized, "the key's is ES256", false},
		"a made-up nonce":         {func() { c.nonce = b64(make([]byte, nonceLen)) }, http.StatusBadRequest, badNonce, "", true},
		"another payload":         {func() { c.forge = true }, http.StatusForbidden, unauthorized, "does not hold", false},
		"a critical extension":    {func() { c.extra = map[string]any{"crit": []string{"x"}, "x": 1} }, http.StatusBadRequest, malformed, "beside alg", false},
		"an unencoded payload":    {func() { c.extra = map[string]any{"b64": false} }, http.StatusBadRequest, malformed, "beside alg", false},
		"a key and an account":    {func() { c.extra = map[string]any{"jwk": public(t, c.key)} }, http.StatusBadRequest, malformed, "either jwk or kid", false},
		"no account's URL":        {func() { c.extra = map[string]any{"kid": "lis-1"} }, http.StatusBadRequest, malformed, "by its URL", false},
		"an unknown account":      {func() { c.extra = map[string]any{"kid": h.url + accountPath + strings.Repeat("a", idLen)} }, http.StatusBadRequest, accountDoesNotExist, "no such account", false},
	} {
		before := len(h.refusals())
		x.wrong()
		a := c.post(newOrder, ids)
		h.holds(what, a, x.status, x.problem, x.text)
		if a.head.Get("Replay-Nonce") == "" || !strings.Contains(a.head.Get("Link"), `rel="index"`) {
			t.Errorf("%s: no nonce to go on with: %v", what, a.head)
		}
		if n := len(h.refusals()) - before; (n == 1) == x.quiet {
			t.Errorf("%s: %d records", what, n)
		}
	}
	for what, body := range map[string]string{
		"nothing": "", "no object": "[]", "two payloads": `{"protected":"e30","payload":"","payload":"","signature":""}`,
		"compact form": "e30.e30.e30", "unprotected fields": `{"protected":"e30","header":{},"payload":"","signature":""}`,
		"padding": `{"protected":"e30=","payload":"","signature":""}`, "something behind": `{"protected":"e30","payload":"","signature":""}{}`,
		"a header that says things twice": `{"protected":"` + b64([]byte(`{"alg":"ES256","alg":"none"}`)) + `","payload":"","signature":""}`,
		"very deep":                       strings.Repeat(`{"a":`, 10000),
	} {
		h.holds(what, h.send(h.url+newOrder, "application/jose+json", []byte(body)), http.StatusBadRequest, malformed, "")
	}
	// A nonce is good once, and not for ever.
	nonce := h.nonce()
	c.nonce = nonce
	if a := c.post(newOrder, ids); a.status != http.StatusCreated {
		t.Fatalf("%s", a.body)
	}
	c.nonce = nonce
	h.holds("a nonce again", c.post(newOrder, ids), http.StatusBadRequest, badNonce, "used before")
	nonce = h.nonce()
	h.ahead.Store(int64(nonceLife + time.Second))
	c.nonce = nonce
	h.holds("an old nonce", c.post(newOrder, ids), http.StatusBadRequest, badNonce, "time is over")
}

// TestWhoHasNoTokenHasNoAccount, whatever they can sign.
func TestWhoHasNoTokenHasNoAccount(t *testing.T) {
	t.Parallel()
	h := newHall(t, "{}")
	if _, err := h.devices.Create(t.Context(), &device.Record{ID: "lis-1", Class: "server"}); err != nil {
		t.Fatal(err)
	}
	c := h.client()
	h.holds("nothing", c.post(newAccount, map[string]any{"termsOfServiceAgreed": true}), http.StatusForbidden, externalAccountRequired, "device token ID --acme")
	h.holds("a question", c.post(newAccount, map[string]any{"onlyReturnExisting": true}), http.StatusBadRequest, accountDoesNotExist, "")
	kid, key := h.binding("lis-1")
	other := h.client()
	for what, x := range map[string]struct {
		payload map[string]any
		problem string
	}{
		"another algorithm":      {c.bound(kid, key, map[string]any{"alg": "none"}), badSignatureAlgorithm},
		"another URL":            {c.bound(kid, key, map[string]any{"url": h.url + newOrder}), unauthorized},
		"a nonce":                {c.bound(kid, key, map[string]any{"nonce": "AAAA"}), malformed},
		"no name":                {c.bound("", key, nil), malformed},
		"another account's key":  {other.bound(kid, key, nil), unauthorized},
		"a binding of no object": {map[string]any{"externalAccountBinding": "x"}, malformed},
	} {
		a := c.post(newAccount, x.payload)
		if a.problem() != x.problem {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	if a := c.post(newAccount, c.bound(kid, key, nil)); a.status != http.StatusCreated {
		t.Fatalf("%s", a.body)
	}
	// The same key finds its account again; another has none.
	if a := c.post(newAccount, map[string]any{"onlyReturnExisting": true}); a.status != http.StatusOK || a.head.Get("Location") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	h.holds("the token once more", other.post(newAccount, other.bound(kid, key, nil)), http.StatusForbidden, unauthorized, "good once")
	// Wrong secrets lock the address out, in ACME's words.
	for range 2 {
		h.holds("a wrong secret", other.post(newAccount, other.bound(kid, make([]byte, 32), nil)), http.StatusForbidden, unauthorized, "not known")
	}
	resp, err := h.http.Get(h.url + DirectoryPath)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("locked out: %d %v", resp.StatusCode, resp.Header)
	}
}

// TestAnOrderIsForWhatTheConfigurationLists and nothing else.
func TestAnOrderIsForWhatTheConfigurationLists(t *testing.T) {
	t.Parallel()
	h, _, c := neighbours(t)
	stranger := h.register(&device.Record{ID: "pump-1", Class: "infusion-pump", Serial: "88123"})
	dnsOf := func(names ...string) map[string]any {
		var ids []ident
		for _, n := range names {
			ids = append(ids, ident{"type": "dns", "value": n})
		}
		return map[string]any{"identifiers": ids}
	}
	many := make([]string, mostNames+1)
	for i := range many {
		many[i] = fmt.Sprintf("n%d.hospital.example", i)
	}
	for what, x := range map[string]struct {
		c       *client
		payload any
		problem string
	}{
		"a name that is not listed":         {c, dnsOf(lis, "ehr.hospital.example"), rejectedIdentifier},
		"a wildcard":                        {c, dnsOf("*.hospital.example"), rejectedIdentifier},
		"capitals":                          {c, dnsOf("LIS.hospital.example"), rejectedIdentifier},
		"an address":                        {c, map[string]any{"identifiers": []ident{{"type": "ip", "value": "127.0.0.1"}}}, unsupportedIdentifier},
		"a device's URI":                    {c, map[string]any{"identifiers": []ident{{"type": "uri", "value": "spiffe://hospital.example/device/pump-1"}}}, unsupportedIdentifier},
		"another server's name":             {stranger, dnsOf(lis), rejectedIdentifier},
		"hardware whose maker is not named": {stranger, map[string]any{"identifiers": []ident{{"type": "permanent-identifier", "value": "88123"}}}, rejectedIdentifier},
		"other hardware":                    {stranger, map[string]any{"identifiers": []ident{{"type": "permanent-identifier", "value": "88124"}}}, rejectedIdentifier},
		"hardware without a serial number":  {c, map[string]any{"identifiers": []ident{{"type": "permanent-identifier", "value": ""}}}, rejectedIdentifier},
		"nothing":                           {c, dnsOf(), malformed},
		"too much":                          {c, dnsOf(many...), malformed},
		"a name twice":                      {c, dnsOf(lis, lis), malformed},
		"a lifetime":                        {c, map[string]any{"identifiers": []ident{{"type": "dns", "value": lis}}, "notAfter": "2099-01-01T00:00:00Z"}, malformed},
		"a payload of no object":            {c, []string{lis}, malformed},
	} {
		before := len(h.refusals())
		a := x.c.post(newOrder, x.payload)
		if a.problem() != x.problem || len(h.refusals()) != before+1 {
			t.Errorf("%s: %d %s, %d records", what, a.status, a.body, len(h.refusals())-before)
		}
	}
	// What was listed when the order was made may not be any more.
	o, chs := c.order(ident{"type": "dns", "value": lis})
	h.cfg.Enrolment.ACME.Servers[0].Names = []string{lis2}
	h.holds("a name that was taken off the list", c.post(chs[http01]["url"].(string), map[string]any{}), http.StatusForbidden, rejectedIdentifier, "")
	_ = o
}

// TestOrdersHaveTheirNumberAndTheirTime.
func TestOrdersHaveTheirNumberAndTheirTime(t *testing.T) {
	t.Parallel()
	h, _, c := neighbours(t)
	payload := map[string]any{"identifiers": []ident{{"type": "dns", "value": lis}}}
	for range mostOrders {
		c.order(ident{"type": "dns", "value": lis})
	}
	h.holds("one more", c.post(newOrder, payload), http.StatusTooManyRequests, rateLimited, "as many orders")
	h.ahead.Store(int64(orderLife + time.Minute))
	o, _ := c.order(ident{"type": "dns", "value": lis})
	h.ahead.Store(int64(2*orderLife + 2*time.Minute))
	if a := c.again(o); a.text("status") != "invalid" {
		t.Errorf("an order whose time is over: %s", a.body)
	}
	h.holds("finishing it", c.post(o.text("finalize"), csrFor(t, newKey(t), "", lis)), http.StatusForbidden, orderNotReady, "invalid")
	n := 0
	if err := h.store.View(t.Context(), func(r store.Reader) error {
		return r.Each(orderTable, "", func(string, []byte) error { n++; return nil })
	}); err != nil || n > mostOrders {
		t.Errorf("%d orders are kept, %v", n, err)
	}
}

// TestAnAccountEndsWithItsDeviceAndWithTheNextOne: it does nothing for a device
// that was withdrawn, and is gone when another is opened.
func TestAnAccountEndsWithItsDeviceAndWithTheNextOne(t *testing.T) {
	t.Parallel()
	h, _, c := neighbours(t)
	payload := map[string]any{"identifiers": []ident{{"type": "dns", "value": lis}}}
	c.order(ident{"type": "dns", "value": lis})
	next := h.open("lis-1")
	h.holds("the former account", c.post(newOrder, payload), http.StatusBadRequest, accountDoesNotExist, "another was opened")
	next.order(ident{"type": "dns", "value": lis})
	for what, to := range map[string]device.Status{"in quarantine": device.Quarantined, "revoked": device.Revoked} {
		if what == "revoked" {
			continue // last, below
		}
		if _, err := h.devices.SetStatus(context.Background(), "lis-1", device.Active, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := h.devices.SetStatus(context.Background(), "lis-1", to, ""); err != nil {
			t.Fatal(err)
		}
		h.holds(what, next.post(newOrder, payload), http.StatusForbidden, unauthorized, string(to))
	}
	if _, err := h.devices.SetStatus(context.Background(), "lis-1", device.Revoked, ""); err != nil {
		t.Fatal(err)
	}
	h.holds("revoked", next.post(next.kid, nil), http.StatusForbidden, unauthorized, "revoked")
	h.holds("revoked, by its key", (&client{h: h, key: next.key}).post(newAccount, map[string]any{}), http.StatusForbidden, unauthorized, "revoked")
	if n := len(h.refusals()); n != 4 {
		t.Errorf("%d records: %v", n, h.refusals())
	}
	// A token that brings the device back opens an account for the same key.
	_, tok, err := h.tokens.Create(t.Context(), "lis-1", "jane", time.Hour, true)
	if err != nil {
		t.Fatal(err)
	}
	kid, mac := h.tokens.Binding(tok)
	back := &client{h: h, key: next.key}
	if a := back.post(newAccount, back.bound(kid, mac, nil)); a.status != http.StatusCreated || a.head.Get("Location") == next.kid {
		t.Errorf("a new token with the former key: %d %s", a.status, a.body)
	}
	// An account can end itself.
	own := h.register(&device.Record{ID: "ris-1"})
	h.holds("another change", own.post(own.kid, map[string]string{"status": "valid"}), http.StatusBadRequest, malformed, "deactivated")
	if a := own.post(own.kid, map[string]string{"status": "deactivated"}); a.status != http.StatusOK || a.text("status") != "deactivated" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := h.events("enrolment.account-ended"); len(got) != 1 || !strings.HasPrefix(got[0], "ris-1: ") {
		t.Errorf("records: %q", got)
	}
	h.holds("after that", own.post(own.kid, nil), http.StatusBadRequest, accountDoesNotExist, "")
}

// TestAnAccountTakesAnotherKey (RFC 8555 §7.3.5), which both keys sign for.
func TestAnAccountTakesAnotherKey(t *testing.T) {
	t.Parallel()
	h, _, c := neighbours(t)
	other := h.register(&device.Record{ID: "ris-1"})
	next := newKey(t)
	// inner is what the new key signs, with what is wrong with it.
	inner := func(by *ecdsa.PrivateKey, head, payload map[string]any) json.RawMessage {
		t.Helper()
		hd := map[string]any{"alg": "ES256", "url": h.url + keyChange, "jwk": public(t, next)}
		pl := map[string]any{"account": c.kid, "oldKey": public(t, c.key)}
		maps.Copy(hd, head)
		maps.Copy(pl, payload)
		raw, err := json.Marshal(pl)
		if err != nil {
			t.Fatal(err)
		}
		return sign(t, by, hd, raw)
	}
	for what, x := range map[string]struct {
		payload any
		status  int
		problem string
	}{
		"nothing":               {map[string]any{}, http.StatusBadRequest, malformed},
		"another URL":           {inner(next, map[string]any{"url": h.url + newOrder}, nil), http.StatusForbidden, unauthorized},
		"a nonce":               {inner(next, map[string]any{"nonce": "AAAA"}, nil), http.StatusBadRequest, malformed},
		"no algorithm":          {inner(next, map[string]any{"alg": "none"}, nil), http.StatusBadRequest, badSignatureAlgorithm},
		"another's signature":   {inner(newKey(t), nil, nil), http.StatusForbidden, unauthorized},
		"another account":       {inner(next, nil, map[string]any{"account": other.kid}), http.StatusForbidden, unauthorized},
		"another former key":    {inner(next, nil, map[string]any{"oldKey": public(t, other.key)}), http.StatusForbidden, unauthorized},
		"another account's key": {inner(other.key.(*ecdsa.PrivateKey), map[string]any{"jwk": public(t, other.key)}, nil), http.StatusConflict, malformed},
	} {
		before := len(h.refusals())
		h.holds(what, c.post(keyChange, x.payload), x.status, x.problem, "")
		if n := len(h.refusals()) - before; n != 1 {
			t.Errorf("%s: %d records", what, n)
		}
	}
	if a := c.post(keyChange, inner(next, nil, nil)); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	h.holds("the former key", c.post(c.kid, nil), http.StatusForbidden, unauthorized, "does not hold")
	rekeyed := &client{h: h, key: next, kid: c.kid}
	rekeyed.order(ident{"type": "dns", "value": lis})
	if a := (&client{h: h, key: next}).post(newAccount, map[string]any{"onlyReturnExisting": true}); a.head.Get("Location") != c.kid {
		t.Errorf("the new key finds %q", a.head.Get("Location"))
	}
	h.holds("the former key's account", (&client{h: h, key: c.key}).post(newAccount, map[string]any{"onlyReturnExisting": true}), http.StatusBadRequest, accountDoesNotExist, "")
	if got := h.events(string(enrol.AccountRekeyed)); len(got) != 1 || !strings.HasPrefix(got[0], "lis-1: ") {
		t.Errorf("records: %q", got)
	}
}
