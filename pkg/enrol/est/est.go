package est

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"github.com/smallstep/pkcs7"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
)

// base is where EST lives (RFC 7030 §3.2.2, RFC 8615).
const base = "/.well-known/est"

// realm is what a device that has to authenticate is told (RFC 9110 §11.5).
const realm = `Basic realm="anteroom enrolment", charset="UTF-8"`

// Config is what the endpoints are made from.
type Config struct {
	Registrar *enrol.Registrar
	Makers    *enrol.Makers // whose certificates enrol
	// OneLine reports whether answers have no line breaks.
	OneLine func() bool
}

// Endpoints returns what EST answers to.
func Endpoints(cfg Config) []web.Endpoint {
	s := &server{cfg}
	var out []web.Endpoint
	for _, prefix := range []string{base, base + "/" + cfg.Registrar.TrustDomain()} {
		out = append(out,
			web.Endpoint{Method: http.MethodGet, Path: prefix + "/cacerts", Serve: s.cacerts},
			web.Endpoint{Method: http.MethodGet, Path: prefix + "/csrattrs", Serve: s.csrattrs},
			web.Endpoint{Method: http.MethodPost, Path: prefix + "/simpleenroll", Serve: s.enroll},
			web.Endpoint{Method: http.MethodPost, Path: prefix + "/simplereenroll", Serve: s.reenroll},
		)
	}
	return out
}

type server struct{ Config }

// cacerts distributes the CA's certificates (§4.1): the root a device is to trust,
// and what lies between it and the device's own.
func (s *server) cacerts(w http.ResponseWriter, _ *web.Request) {
	var der []byte
	for _, c := range s.Registrar.Authorities() {
		der = append(der, c.Raw...)
	}
	s.certsOnly(w, der, "application/pkcs7-mime")
}

// csrattrs says what a signing request should hold (§4.5): that a signature by
// ECDSA with SHA-256 on P-256 is welcome. Everything else in a certificate comes
// from its profile.
func (s *server) csrattrs(w http.ResponseWriter, _ *web.Request) {
	der, err := asn1.Marshal([]any{
		attribute{oidECPublicKey, []asn1.ObjectIdentifier{oidP256}},
		oidECDSAWithSHA256,
	})
	if err != nil {
		http.Error(w, "the answer can not be written", http.StatusInternalServerError)
		return
	}
	s.send(w, http.StatusOK, "application/csrattrs", der)
}

// attribute is the Attribute of RFC 8951 §4 with values of one kind.
type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.ObjectIdentifier `asn1:"set"`
}

var (
	oidECPublicKey     = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}    // RFC 5480 §2.1.1
	oidP256            = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7} // RFC 5480 §2.1.1.1
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2} // RFC 5758 §3.2
)

// enroll is §4.2.1. A device that has no certificate shows its id and a token; one
// that has shows that (§3.3.2), and then enrolling is renewing. With its
// manufacturer's it enrols, and is told to come again (§4.2.3) while it waits for
// approval.
func (s *server) enroll(w http.ResponseWriter, r *web.Request) {
	id, token, ok := r.BasicAuth()
	if !ok {
		if r.Leaf != nil && r.Header.Get("Authorization") == "" {
			s.issue(w, r, &enrol.Request{Way: enrol.EST, Proof: s.Registrar.ProofOf(s.Makers, r.Leaf, r.Chain)})
			return
		}
		unauthorized(w, "a device enrols with its id and a one-time token")
		return
	}
	if device.ValidID(id) != nil {
		id = "?" // nobody's; the token decides whose failure is recorded
	}
	s.issue(w, r, &enrol.Request{Way: enrol.EST, ID: id, Proof: enrol.Secret{Text: token}})
}

// reenroll is §4.2.2.
func (s *server) reenroll(w http.ResponseWriter, r *web.Request) {
	if r.Leaf == nil {
		// §3.2.3: authentication is by the certificate, for which HTTP has no word.
		unauthorized(w, "a device renews with its certificate in the TLS handshake")
		return
	}
	s.issue(w, r, &enrol.Request{Way: enrol.EST, Proof: enrol.Certificate{Leaf: r.Leaf}})
}

func unauthorized(w http.ResponseWriter, text string) {
	w.Header().Set("WWW-Authenticate", realm)
	http.Error(w, text, http.StatusUnauthorized)
}

func (s *server) issue(w http.ResponseWriter, r *web.Request, q *enrol.Request) {
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(t), "application/pkcs10") {
		http.Error(w, "a signing request has the type application/pkcs10 (RFC 7030 section 4.2.1)", http.StatusUnsupportedMediaType)
		return
	}
	var err error
	if q.CSR, err = decode(r.Body); err != nil {
		// The registrar says what is wrong with it, to who has a proof, and
		// records it: what is not base64 is no signing request.
		q.CSR = nil
	}
	iss, why := r.Enrol(q)
	if why == nil {
		s.certsOnly(w, iss.Chain[0].Raw, "application/pkcs7-mime; smime-type=certs-only")
		return
	}
	status := web.Status(why)
	if status == http.StatusUnauthorized {
		if _, basic := q.Proof.(enrol.Secret); basic {
			w.Header().Set("WWW-Authenticate", realm)
		} else {
			// With another certificate, perhaps; not with a word in a header.
			status = http.StatusForbidden
		}
	}
	web.RetryAfter(w, why)
	http.Error(w, fmt.Sprintf("%s (reference %s)", why.Told(), why.Reference), status)
}

// decode reads what RFC 8951 §3.1 makes of a body: base64 with or without line
// breaks, whatever Content-Transfer-Encoding says. Many clients send PEM or DER,
// as RFC 7030 could be read, and those are told by their first byte.
func decode(body []byte) ([]byte, error) {
	trimmed := bytes.TrimSpace(body)
	if bytes.HasPrefix(trimmed, []byte("-----BEGIN ")) || len(body) > 0 && body[0] == 0x30 {
		return body, nil
	}
	clean := make([]byte, 0, len(trimmed))
	for _, c := range trimmed {
		if c != '\r' && c != '\n' {
			clean = append(clean, c)
		}
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(clean)))
	n, err := base64.StdEncoding.Strict().Decode(out, clean)
	return out[:n], err
}

// certsOnly answers with certificates and no signature (§4.1.3): a degenerate CMS
// SignedData (RFC 5652 §5.2).
func (s *server) certsOnly(w http.ResponseWriter, der []byte, contentType string) {
	p7, err := pkcs7.DegenerateCertificate(der)
	if err != nil {
		http.Error(w, "the answer can not be written", http.StatusInternalServerError)
		return
	}
	s.send(w, http.StatusOK, contentType, p7)
}

// lineLen is how long a line of base64 is (RFC 2045 §6.8).
const lineLen = 76

// send answers in base64 with line breaks, which RFC 8951 §3.1 has clients
// take, and those of RFC 7030 want: OpenSSL's reader finds nothing in a long line. Some
// stop at the first break, and nothing in a request tells the two apart.
func (s *server) send(w http.ResponseWriter, status int, contentType string, der []byte) {
	text := base64.StdEncoding.EncodeToString(der)
	var b bytes.Buffer
	if !s.OneLine() {
		for len(text) > lineLen {
			b.WriteString(text[:lineLen] + "\r\n")
			text = text[lineLen:]
		}
		text += "\r\n"
	}
	b.WriteString(text)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Transfer-Encoding", "base64")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}
