package httpgw

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
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
// compared as CGI-like servers do (see dashed).
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

// extras are fields by which some FHIR servers do more with a request, or something
// else, than its interaction says: create a resource that came in the field, or
// change what others refer to.
var extras = map[string]bool{
	"x-provenance": true, "x-upsert-extistence-check": true, "x-upsert-existence-check": true, "x-cascade": true,
}

// more reports whether a message has fields by which a server may do more than it
// says.
func (m *message) more() bool {
	return slices.ContainsFunc(m.header, func(f http1.Field) bool { return extras[dashed(f.Name)] })
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
	switch name { // what nearly all fields are, without asking for it
	case "accept", "accept-encoding", "accept-language", "authorization", "content-type", "cookie", "if-match", "if-none-exist", "if-none-match",
		"prefer", "traceparent", "tracestate", "user-agent", "x-correlation-id", "x-request-id":
		return false
	case "connection", "content-length", "host":
		return true
	}
	return isPrivate(name)
}

func isPrivate(name string) bool {
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

// dashed returns a field name, which is in lower case, as CGI-like servers would
// read it: some have a variable's name made of it by taking every character that is
// no letter and no digit for the same one, and PHP does so with a dot.
func dashed(name string) string {
	for i := range len(name) {
		if !plain(name[i]) {
			return strings.Map(func(r rune) rune {
				if r < 0x80 && plain(byte(r)) {
					return r
				}
				return '-'
			}, name)
		}
	}
	return name
}

func plain(c byte) bool { return 'a' <= c && c <= 'z' || c == '-' || '0' <= c && c <= '9' }

// connection is what a Connection header says.
type connection struct {
	close, keepAlive, upgrade bool
	named                     []string // fields to remove, lower case
}

func parseConnection(h http1.Header) (c connection, f *fault) {
	for i := range h {
		if h[i].Name != "connection" {
			continue
		}
		for tok := range strings.SplitSeq(h[i].Value, ",") {
			tok = http1.LowerASCII(strings.Trim(tok, " \t"))
			switch tok {
			case "":
			case "close":
				c.close = true
			case "keep-alive":
				c.keepAlive = true
			case "upgrade":
				c.upgrade = true
			default:
				if !http1.IsToken(tok) {
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
func checkHeader(h http1.Header) *fault {
	for i := range h {
		name := dashed(h[i].Name)
		if overrides[name] {
			return bad("the request asks for another method than its own")
		}
		if essential[name] && !hop[name] && name != h[i].Name {
			return bad("the request has a header field that some take for another, which says what the request means")
		}
	}
	for _, name := range [...]string{"content-type", "content-encoding", "authorization", "if-none-exist", "expect"} {
		if _, n := h.Get(name); n > 1 {
			return bad("the request repeats a header field that may be there once")
		}
	}
	if v, n := h.Get("expect"); n == 1 && !strings.EqualFold(v, "100-continue") {
		return &fault{http.StatusExpectationFailed, "the Expect field asks for something unknown", true}
	}
	return nil
}

// outbound appends the fields that go to the backend to out: the device's own
// less what is for one connection, what its Connection header names, and what
// claims an identity. Ours follow them, so that nothing can remove those.
func outbound(out, h http1.Header, named []string) http1.Header {
next:
	for i := range h {
		name := h[i].Name
		if private(name) {
			continue
		}
		for _, n := range named {
			if n == name {
				continue next
			}
		}
		out = append(out, h[i])
	}
	return out
}

// A badge keeps a connection's identity from one request to the next: making it
// costs more than everything else that is done to a header. It is made anew when
// the device's record or the host changed.
type badge struct {
	mu   sync.Mutex
	rec  *device.Record
	host string
	id   *upstream.Fixed
}

func (b *badge) of(s *protocol.Session, host string) *upstream.Fixed {
	rec := s.Device()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.id == nil || b.rec != rec || b.host != host {
		b.rec, b.host, b.id = rec, host, newIdentity(s, rec, host)
	}
	return b.id
}

// newIdentity makes the fields of a session: RFC 9440's Client-Cert, RFC 7239's
// Forwarded with its older kin, and ours.
func newIdentity(s *protocol.Session, rec *device.Record, host string) *upstream.Fixed {
	addr := s.Remote.Addr()
	forwarded := addr.String()
	if addr.Is6() {
		forwarded = `"[` + forwarded + `]"`
	}
	var h http1.Header
	set := func(name, value string) {
		if value != "" && http1.CleanValue(value) {
			h = append(h, http1.Field{Name: name, Value: value})
		}
	}
	set("client-cert", ":"+base64.StdEncoding.EncodeToString(s.Certificate)+":")
	set("forwarded", fmt.Sprintf("for=%s;host=%q;proto=https", forwarded, host))
	set("x-forwarded-for", addr.String())
	set("x-forwarded-host", host)
	set("x-forwarded-proto", "https")
	set("x-anteroom-device-id", rec.ID)
	set("x-anteroom-device-class", rec.Class)
	set("x-anteroom-device-location", asciiOnly(rec.Location))
	set("x-anteroom-device-serial", asciiOnly(rec.Serial))
	return upstream.NewFixed(h)
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

// inbound appends the fields of a backend's response that go to the device to
// out.
func inbound(out, h http1.Header) http1.Header {
	// What a Connection field names is for that connection only.
	const few = 8
	var room [few]string
	named := room[:0]
	for i := range h {
		if h[i].Name == "connection" {
			for tok := range strings.SplitSeq(h[i].Value, ",") {
				named = append(named, http1.LowerASCII(strings.Trim(tok, " \t")))
			}
		}
	}
next:
	for i := range h {
		switch h[i].Name {
		case "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-authenticate",
			"content-length",
			// It would send the device around the gateway, or to HTTP/3.
			"alt-svc",
			// What the gateway says of itself is the gateway's to say.
			"x-anteroom-decision-id":
			continue
		}
		for _, n := range named {
			if n == h[i].Name {
				continue next
			}
		}
		out = append(out, h[i])
	}
	return out
}
