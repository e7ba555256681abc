package step

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
)

// Endpoints returns what of smallstep's API is answered.
func Endpoints(g *enrol.Registrar, clock func() time.Time) []web.Endpoint {
	s := &server{g, clock}
	out := []web.Endpoint{
		{Method: http.MethodGet, Path: "/health", Serve: func(w http.ResponseWriter, _ *web.Request) {
			answer(w, http.StatusOK, map[string]string{"status": "ok"})
		}},
		{Method: http.MethodGet, Path: "/version", Serve: func(w http.ResponseWriter, _ *web.Request) {
			// The version of the API that the client asks for, not of anything here.
			answer(w, http.StatusOK, map[string]any{"version": "0.28.0", "requireClientAuthentication": false})
		}},
	}
	for _, version := range []string{"", "/1.0"} {
		out = append(out,
			web.Endpoint{Method: http.MethodGet, Path: version + "/root/", Serve: s.root},
			web.Endpoint{Method: http.MethodGet, Path: version + "/roots", Serve: s.listRoots},
			web.Endpoint{Method: http.MethodPost, Path: version + "/sign", Serve: s.sign},
			web.Endpoint{Method: http.MethodPost, Path: version + "/renew", Serve: s.renew},
			web.Endpoint{Method: http.MethodPost, Path: version + "/rekey", Serve: s.rekey},
			web.Endpoint{Method: http.MethodPost, Path: version + "/revoke", Serve: s.revoke},
			web.Endpoint{Method: http.MethodGet, Path: version + "/provisioners", Serve: s.noProvisioners, Query: true},
		)
	}
	return out
}

type server struct {
	registrar *enrol.Registrar
	clock     func() time.Time
}

func (s *server) roots() (out []*x509.Certificate) {
	for _, c := range s.registrar.Authorities() {
		if c.IsCA && string(c.RawIssuer) == string(c.RawSubject) {
			out = append(out, c)
		}
	}
	return out
}

func certificate(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// root is the root with a SHA-256, which is how step knows one that it does not have.
// Which there are is asked for each time: roots come and go while the gateway runs.
func (s *server) root(w http.ResponseWriter, r *web.Request) {
	for _, c := range s.roots() {
		if ca.Fingerprint(c) == r.Name {
			answer(w, http.StatusOK, map[string]string{"ca": certificate(c)})
			return
		}
	}
	refused(w, http.StatusNotFound, "no root that is trusted here has this SHA-256")
}

func (s *server) listRoots(w http.ResponseWriter, _ *web.Request) {
	var list []string
	for _, c := range s.roots() {
		list = append(list, certificate(c))
	}
	// smallstep's server says 201 here, and its client takes both.
	answer(w, http.StatusCreated, map[string][]string{"crts": list})
}

// asked is the part of smallstep's requests that counts. Lifetimes and templates
// that a client asks for do not: the profile and the class decide.
type asked struct {
	CSR   string `json:"csr"`
	Token string `json:"ott"`
}

func (s *server) sign(w http.ResponseWriter, r *web.Request) {
	var in asked
	if err := json.Unmarshal(r.Body, &in); err != nil {
		refused(w, http.StatusBadRequest, "the body is not a request in JSON")
		return
	}
	token, device, ok := open(in.Token)
	if !ok {
		refused(w, http.StatusUnauthorized, "the token is not one of anteroom device token --step")
		return
	}
	if device == "" {
		device = "?" // nobody's
	}
	s.issue(w, r, &enrol.Request{ID: device, CSR: []byte(in.CSR), Proof: enrol.Secret{Text: token}})
}

// renew renews with the certificate in the handshake, or in a token that its key
// signed, which is how step shows one that has ended.
func (s *server) renew(w http.ResponseWriter, r *web.Request) {
	token, has := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case has && r.Leaf != nil:
		refused(w, http.StatusBadRequest, "there is a certificate in the TLS handshake and one in a token: which one is to be renewed?")
	case has:
		leaf, err := renewing(token, r.Host, s.clock())
		if err != nil {
			s.deny(w, r.Refused(&enrol.Request{Way: enrol.Smallstep, Proof: enrol.Signature{}},
				enrol.NewRefusal(enrol.BadProof, "the token to renew with: "+err.Error())))
			return
		}
		s.issue(w, r, &enrol.Request{SameKey: true, Proof: enrol.Signature{Certificate: enrol.Certificate{Leaf: leaf}}})
	case r.Leaf != nil:
		s.issue(w, r, &enrol.Request{SameKey: true, Proof: enrol.Certificate{Leaf: r.Leaf}})
	default:
		refused(w, http.StatusUnauthorized, "renewal needs the device's certificate in the TLS handshake, or in a token")
	}
}

func (s *server) rekey(w http.ResponseWriter, r *web.Request) {
	var in asked
	if err := json.Unmarshal(r.Body, &in); err != nil {
		refused(w, http.StatusBadRequest, "the body is not a request in JSON")
		return
	}
	if r.Leaf == nil {
		refused(w, http.StatusUnauthorized, "renewal needs the device's certificate in the TLS handshake")
		return
	}
	s.issue(w, r, &enrol.Request{CSR: []byte(in.CSR), Proof: enrol.Certificate{Leaf: r.Leaf}})
}

// signed is smallstep's answer with a certificate.
type signed struct {
	Leaf  string   `json:"crt"`
	CA    string   `json:"ca"`
	Chain []string `json:"certChain"`
}

func (s *server) issue(w http.ResponseWriter, r *web.Request, q *enrol.Request) {
	q.Way = enrol.Smallstep
	iss, why := r.Enrol(q)
	if why != nil {
		s.deny(w, why)
		return
	}
	out := signed{}
	for _, c := range iss.Chain {
		out.Chain = append(out.Chain, certificate(c))
	}
	out.Leaf, out.CA = out.Chain[0], out.Chain[1]
	answer(w, http.StatusCreated, out)
}

// deny says why a request was refused.
func (s *server) deny(w http.ResponseWriter, why *enrol.Refusal) {
	web.RetryAfter(w, why)
	refused(w, web.Status(why), fmt.Sprintf("%s (reference %s)", why.Told(), why.Reference))
}

// refused is smallstep's form of an error.
func refused(w http.ResponseWriter, status int, text string) {
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Token realm="anteroom enrolment"`)
	}
	answer(w, status, map[string]any{"status": status, "message": text})
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"status":500,"message":"the answer can not be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}
