package scep

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/smallstep/pkcs7"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
)

// paths are where clients look (RFC 8894 §4.1: any, and the one old devices have
// built in).
var paths = []string{"/scep", "/cgi-bin/pkiclient.exe"}

// capabilities is the answer to GetCACaps (RFC 8894 §3.5.2): what is taken from every
// device. SHA-384 is not in the RFC's list, but strongSwan's pki 5.9.8 asks for nothing
// without it.
const capabilities = "AES\nPOSTPKIOperation\nRenewal\nSHA-256\nSHA-384\nSHA-512\nSCEPStandard\n"

// Config is what the endpoints are made from.
type Config struct {
	Registrar *enrol.Registrar
	Makers    *enrol.Makers
	Recipient *Recipient
	// Legacy reports whether any class of devices may use weak algorithms.
	Legacy func() bool
}

// Endpoints returns what SCEP answers to.
func Endpoints(cfg Config) (out []web.Endpoint) {
	s := &server{cfg}
	for _, p := range paths {
		out = append(out,
			web.Endpoint{Method: http.MethodGet, Path: p, Serve: s.get, Query: true, Plain: true},
			web.Endpoint{Method: http.MethodPost, Path: p, Serve: s.post, Query: true, Plain: true},
		)
	}
	return out
}

type server struct{ Config }

// get is every operation, in a query (RFC 8894 §4.1).
func (s *server) get(w http.ResponseWriter, r *web.Request) {
	operation, message, ok := query(r.URL.RawQuery)
	switch {
	case !ok:
		http.Error(w, "a request of SCEP has one operation and at most one message", http.StatusBadRequest)
	case operation == "GetCACaps":
		send(w, "text/plain", []byte(capabilities))
	case operation == "GetCACert":
		s.caCert(w, r)
	case operation == "PKIOperation":
		der, err := decode(message)
		if err != nil {
			s.malformed(w, r, "the message is not in base64")
			return
		}
		s.operation(w, r, der)
	default:
		http.Error(w, "the operation is not one of GetCACaps, GetCACert and PKIOperation", http.StatusBadRequest)
	}
}

// post is PKIOperation with the message in the body (RFC 8894 §4.3).
func (s *server) post(w http.ResponseWriter, r *web.Request) {
	operation, _, ok := query(r.URL.RawQuery)
	if !ok || operation != "PKIOperation" {
		http.Error(w, "only PKIOperation is posted", http.StatusBadRequest)
		return
	}
	s.operation(w, r, r.Body)
}

func query(raw string) (operation, message string, ok bool) {
	q, err := url.ParseQuery(raw)
	if err != nil || len(q["operation"]) != 1 || len(q["message"]) > 1 {
		return "", "", false
	}
	return q.Get("operation"), q.Get("message"), true
}

// decode reads base64 as clients write it: with the alphabet for files or the usual
// one, whose plus became a space on the way, with line breaks or without.
func decode(text string) ([]byte, error) {
	text = strings.NewReplacer(" ", "+", "-", "+", "_", "/", "\r", "", "\n", "").Replace(text)
	return base64.StdEncoding.DecodeString(text)
}

func send(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body)
}

// caCert distributes the certificate that messages are encrypted to, and the CA's
// (RFC 8894 §4.2.1.2).
func (s *server) caCert(w http.ResponseWriter, r *web.Request) {
	if err := s.Recipient.renew(r.Context()); err != nil {
		http.Error(w, "there is no certificate to encrypt to now; try again later", http.StatusServiceUnavailable)
		return
	}
	p7, err := pkcs7.DegenerateCertificate(concat(append([]*x509.Certificate{s.Recipient.Certificate()}, s.Registrar.Authorities()...)))
	if err != nil {
		http.Error(w, "the answer can not be written", http.StatusInternalServerError)
		return
	}
	send(w, "application/x-x509-ca-ra-cert", p7)
}

func concat(list []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range list {
		b.Write(c.Raw)
	}
	return b.Bytes()
}

// malformed answers what is no message, and so has no answer of SCEP's.
func (s *server) malformed(w http.ResponseWriter, r *web.Request, why string) {
	ref := r.Refused(&enrol.Request{Way: enrol.SCEP, Proof: enrol.Secret{}}, enrol.NewRefusal(enrol.BadRequest, why))
	http.Error(w, fmt.Sprintf("%s (reference %s)", ref.Told(), ref.Reference), http.StatusBadRequest)
}

// operation answers a message.
func (s *server) operation(w http.ResponseWriter, r *web.Request, in []byte) {
	m, err := parse(in)
	if err != nil && !errors.Is(err, errAlgorithm) {
		s.malformed(w, r, err.Error())
		return
	}
	var out *reply
	if err != nil {
		out = s.fail(r, enrol.WeakCrypto, "the message is not signed by RSA with SHA-256 and a key of 2048 bits or more")
	} else {
		out = s.answer(r, m)
	}
	der, err := s.Recipient.reply(m, out)
	if err != nil {
		http.Error(w, "the answer can not be written", http.StatusInternalServerError)
		return
	}
	send(w, "application/x-pki-message", der)
}

// fail records a refusal and makes a reply of it.
func (s *server) fail(r *web.Request, code enrol.Code, why string) *reply {
	return refused(r.Refused(&enrol.Request{Way: enrol.SCEP, Proof: enrol.Secret{}}, enrol.NewRefusal(code, why)))
}

// unsound is the one answer to everything that is wrong with a message's protection,
// or with what it protects; the record alone says what that was. It counts as a wrong
// secret, so that nobody tries a thousand.
func (s *server) unsound(r *web.Request, why error) *reply {
	return refused(r.Refused(&enrol.Request{Way: enrol.SCEP, Proof: enrol.Secret{}},
		&enrol.Refusal{Code: enrol.BadProof, Why: errCheck.Error() + ": " + why.Error(), Public: errCheck.Error()}))
}

// refused is a refusal as a reply.
func refused(why *enrol.Refusal) *reply {
	if why.Code == enrol.Waiting {
		return &reply{status: pending}
	}
	out := &reply{status: failure, failInfo: badRequest, text: fmt.Sprintf("%s (reference %s)", why.Told(), why.Reference)}
	switch why.Code {
	case enrol.WeakCrypto:
		out.failInfo = badAlg
	case enrol.BadProof:
		out.failInfo = badMessageCheck
	}
	return out
}

// answer is what a message is answered, one whose attributes were read.
func (s *server) answer(r *web.Request, m *message) *reply {
	weak := m.weak()
	if weak && !s.Legacy() {
		return s.fail(r, enrol.WeakCrypto, "the message is signed with SHA-1")
	}
	if m.verify() != nil {
		return s.unsound(r, errors.New("the signature is not the signer's"))
	}
	q := &enrol.Request{Way: enrol.SCEP, Weak: weak}
	how := sealings[0]
	switch m.kind {
	case pkcsReq, renewalReq:
		e, err := readEnvelope(m.content, s.Recipient.Certificate())
		if errors.Is(err, errAlgorithm) || err == nil && e.how.weak && !s.Legacy() {
			return s.fail(r, enrol.WeakCrypto, "the message is not encrypted with RSA and AES in CBC mode")
		}
		if err != nil {
			return s.unsound(r, errors.New("the envelope can not be read"))
		}
		q.Weak, how = weak || e.how.weak, e.how
		plain, err := e.open(s.Recipient.key)
		if err != nil {
			return s.unsound(r, errors.New("the envelope can not be opened"))
		}
		csr, challenge, err := request(plain)
		if err == nil && m.kind == pkcsReq && !csr.PublicKey.(*rsa.PublicKey).Equal(m.signer.PublicKey) {
			err = errors.New("the key of the signing request is not the signer's")
		}
		if err != nil {
			return s.unsound(r, err)
		}
		q.CSR, q.Proof = plain, s.proof(m)
		switch {
		case m.kind == renewalReq:
			// With the device's own certificate only. The request's key can be another
			// than the signer's there, and so its name has to be the signer's.
			q.Proof = enrol.Signature{Certificate: enrol.Certificate{Leaf: m.signer}}
		case challenge != "":
			q.Proof = enrol.Secret{Text: challenge}
		}
	case certPoll:
		if e, err := readEnvelope(m.content, s.Recipient.Certificate()); err == nil {
			q.Weak, how = weak || e.how.weak, e.how
		}
		q.Proof, q.SameKey = s.proof(m), true
		if _, waits := q.Proof.(enrol.Factory); !waits {
			out := s.fail(r, enrol.BadRequest, "nothing waits for approval that was asked for with this certificate")
			out.failInfo = badCertID
			return out
		}
	default:
		return s.fail(r, enrol.BadRequest, "the message is none of PKCSReq, RenewalReq and CertPoll")
	}
	iss, why := r.Enrol(q)
	if why != nil {
		return refused(why)
	}
	p7, err := pkcs7.DegenerateCertificate(concat(iss.Chain))
	if err == nil {
		var content []byte
		if content, err = seal(p7, m.signer, how); err == nil {
			return &reply{status: success, content: content}
		}
	}
	return s.fail(r, enrol.Busy, "the answer can not be encrypted to the device")
}

// proof is what the signature of a message is, if there is no challenge password.
func (s *server) proof(m *message) enrol.Proof {
	p := s.Registrar.ProofOf(s.Makers, m.signer, m.others)
	if c, ok := p.(enrol.Certificate); ok {
		return enrol.Signature{Certificate: c}
	}
	return p
}

// request reads a signing request that holds: whose signature verifies, with an RSA
// key. challenge is its challengePassword (RFC 2985 §5.4.1), if it has exactly one.
func request(der []byte) (csr *x509.CertificateRequest, challenge string, err error) {
	csr, err = ca.ParseCSR(der)
	if err != nil {
		return nil, "", err
	}
	if der[0] != 0x30 {
		return nil, "", errors.New("the signing request is in PEM form")
	}
	if _, isRSA := csr.PublicKey.(*rsa.PublicKey); !isRSA {
		return nil, "", errors.New("the key of the signing request is not RSA")
	}
	var body, attributes, one, values cryptobyte.String
	in := cryptobyte.String(csr.RawTBSCertificateRequest)
	var has bool
	if !in.ReadASN1(&body, asn1.SEQUENCE) || !body.SkipASN1(asn1.INTEGER) || !body.SkipASN1(asn1.SEQUENCE) || !body.SkipASN1(asn1.SEQUENCE) ||
		!body.ReadOptionalASN1(&attributes, &has, tag(0)) {
		return nil, "", errAttributes
	}
	found := false
	for !attributes.Empty() {
		var kind oid
		if !attributes.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&kind) || !one.ReadASN1(&values, asn1.SET) {
			return nil, "", errAttributes
		}
		if !kind.Equal(oidChallengePassword) {
			continue
		}
		var text cryptobyte.String
		var form asn1.Tag
		if found || !values.ReadAnyASN1(&text, &form) || !values.Empty() || len(text) > maxChallenge {
			return nil, "", errAttributes
		}
		// Of DirectoryString's forms those that a token can be in as it is.
		if form != asn1.PrintableString && form != asn1.UTF8String && form != asn1.T61String && form != asn1.IA5String {
			return nil, "", errAttributes
		}
		challenge, found = string(text), true
	}
	return csr, challenge, nil
}

var errAttributes = errors.New("the attributes of the signing request are not one challenge password at most")

// maxChallenge bounds a challenge password (RFC 2985 §5.4.1).
const maxChallenge = 255

var oidChallengePassword = oid{1, 2, 840, 113549, 1, 9, 7}
