package httpgw

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// hop are the fields that are for one connection only (RFC 9110 section 7.6.1)
// or belong to the framing that is made anew.
var hop = map[string]bool{
	"connection": true, "proxy-connection": true, "keep-alive": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "http2-settings": true, "content-length": true,
	"proxy-authorization": true, "proxy-authenticate": true, "expect": true, "host": true, "via": true,
}

// claims are prefixes of fields by which proxies tell a backend who is calling.
// A device's own are removed, whatever it wrote there (invariant 2). Names are
// compared with underscores as dashes, because CGI-like servers do.
var claims = []string{
	"x-forwarded", "forwarded", "client-cert", "x-client-cert", "x-client-verify", "x-client-dn", "x-ssl-", "ssl-client",
	"x-device-", "x-anteroom-", "x-real-ip", "x-original-", "x-rewrite-", "x-envoy-", "x-remote-", "remote-user",
	"true-client-ip", "cf-connecting-ip", "x-cluster-client-ip", "x-arr-", "x-tls-", "x-spiffe-",
}

// overrides are fields by which some servers change the method, which would then
// not be the one that was judged. They are refused, not removed: a device that
// sends one means something else than it says.
var overrides = map[string]bool{
	"x-http-method-override": true, "x-http-method": true, "x-method-override": true,
}

// essential are fields a Connection header may not name: removing them would
// change what the request means.
var essential = map[string]bool{
	"host": true, "content-length": true, "content-type": true, "content-encoding": true, "authorization": true,
	"cookie": true, "expect": true, "if-match": true, "if-none-match": true, "if-none-exist": true, "prefer": true, "accept": true,
}

// private reports whether a device's field of that name stays here: it is for
// this connection only, or claims an identity.
func private(name string) bool {
	name = dashed(name)
	if hop[name] {
		return true
	}
	for _, c := range claims {
		if strings.HasPrefix(name, c) {
			return true
		}
	}
	return false
}

// dashed returns a field name as CGI-like servers would read it.
func dashed(name string) string {
	if strings.IndexByte(name, '_') >= 0 {
		return strings.ReplaceAll(name, "_", "-")
	}
	return name
}

// connection is what a Connection header says.
type connection struct {
	close, keepAlive, upgrade bool
	named                     []string // fields to remove, lower case
}

func parseConnection(h header) (c connection, f *fault) {
	for i := range h {
		if h[i].name != "connection" {
			continue
		}
		for tok := range strings.SplitSeq(h[i].value, ",") {
			tok = lowerASCII(strings.Trim(tok, " \t"))
			switch tok {
			case "":
			case "close":
				c.close = true
			case "keep-alive":
				c.keepAlive = true
			case "upgrade":
				c.upgrade = true
			default:
				if !isToken(tok) {
					return c, bad("the Connection field is not a list of tokens")
				}
				if essential[tok] {
					return c, bad("the Connection field names a field that is not for the connection only")
				}
				c.named = append(c.named, tok)
			}
		}
	}
	return c, nil
}

// checkHeader refuses what no request may carry, whichever engine read it.
func checkHeader(h header) *fault {
	for i := range h {
		if overrides[dashed(h[i].name)] {
			return bad("the request asks for another method than its own")
		}
	}
	for _, name := range [...]string{"content-type", "content-encoding", "authorization", "if-none-exist", "expect"} {
		if _, n := h.get(name); n > 1 {
			return bad("the request repeats a header field that may be there once")
		}
	}
	if v, n := h.get("expect"); n == 1 && !strings.EqualFold(v, "100-continue") {
		return &fault{http.StatusExpectationFailed, "the Expect field asks for something unknown", true}
	}
	return nil
}

// outbound returns the fields that go to the backend: the device's own less
// what is for one connection, what its Connection header names, and what claims
// an identity; and then ours, set last so that nothing can remove them.
func outbound(h header, named []string, id *identity) http.Header {
	out := make(http.Header, len(h)+8)
next:
	for i := range h {
		name := h[i].name
		if private(name) {
			continue
		}
		for _, n := range named {
			if n == name {
				continue next
			}
		}
		key := http.CanonicalHeaderKey(name)
		out[key] = append(out[key], h[i].value)
	}
	for i := range id.fields {
		out[id.fields[i].key] = id.fields[i].value
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = nil // net/http would add its own name
	}
	return out
}

// identity is what the gateway tells backends of a device.
type identity struct {
	fields []identityField
}

// A badge keeps a connection's identity from one request to the next: making it
// costs more than everything else that is done to a header. It is made anew when
// the device's record or the host changed.
type badge struct {
	mu   sync.Mutex
	rec  *device.Record
	host string
	id   *identity
}

func (b *badge) of(s *protocol.Session, host string) *identity {
	rec := s.Device()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.id == nil || b.rec != rec || b.host != host {
		b.rec, b.host, b.id = rec, host, newIdentity(s, rec, host)
	}
	return b.id
}

type identityField struct {
	key   string
	value []string
}

// newIdentity makes the fields of a session: RFC 9440's Client-Cert, RFC 7239's
// Forwarded with its older kin, and ours.
func newIdentity(s *protocol.Session, rec *device.Record, host string) *identity {
	addr := s.Remote.Addr()
	forwarded := addr.String()
	if addr.Is6() {
		forwarded = `"[` + forwarded + `]"`
	}
	id := &identity{}
	set := func(key, value string) {
		if value != "" && cleanValue(value) {
			id.fields = append(id.fields, identityField{key, []string{value}})
		}
	}
	set("Client-Cert", ":"+base64.StdEncoding.EncodeToString(s.Certificate.Raw)+":")
	set("Forwarded", fmt.Sprintf("for=%s;host=%q;proto=https", forwarded, host))
	set("X-Forwarded-For", addr.String())
	set("X-Forwarded-Host", host)
	set("X-Forwarded-Proto", "https")
	set("X-Anteroom-Device-Id", rec.ID)
	set("X-Anteroom-Device-Class", rec.Class)
	set("X-Anteroom-Device-Location", asciiOnly(rec.Location))
	set("X-Anteroom-Device-Serial", asciiOnly(rec.Serial))
	return id
}

// asciiOnly percent-encodes what header fields can not carry safely (RFC 8187's
// alphabet without its framing).
func asciiOnly(s string) string {
	return string(appendEscaped(nil, s, &headerSafe))
}

var headerSafe = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '%'
	}
	return t
}()

// inbound returns the fields of a backend's response that go to the device.
func inbound(h http.Header) http.Header {
	out := make(http.Header, len(h))
	var named []string
	for _, v := range h["Connection"] {
		for tok := range strings.SplitSeq(v, ",") {
			named = append(named, http.CanonicalHeaderKey(strings.Trim(tok, " \t")))
		}
	}
	for key, vs := range h {
		// net/http lets names that are none pass in trailers.
		if isToken(key) {
			out[key] = vs
		}
	}
	for _, key := range [...]string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authenticate",
		"Content-Length",
		// It would send the device around the gateway, or to HTTP/3.
		"Alt-Svc",
		// What the gateway says of itself is the gateway's to say.
		"X-Anteroom-Decision-Id",
	} {
		delete(out, key)
	}
	for _, key := range named {
		delete(out, key)
	}
	return out
}
