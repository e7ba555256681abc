package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

// plain are the endpoints for who speaks no protocol but HTTP and JSON.
func (s *Server) plain() []Endpoint {
	return []Endpoint{
		{Method: http.MethodPost, Path: "/enrol", Serve: func(w http.ResponseWriter, r *Request) {
			in, err := r.Strings("token", "csr")
			if err != nil {
				answerError(w, http.StatusBadRequest, &problem{Error: err.Error(), Code: enrol.BadRequest})
				return
			}
			r.plain(w, &enrol.Request{Way: enrol.ByToken, CSR: []byte(in["csr"]), Proof: enrol.Secret{Text: in["token"]}})
		}},
		{Method: http.MethodPost, Path: "/enrol/renew", Serve: func(w http.ResponseWriter, r *Request) {
			in, err := r.Strings("csr")
			if err != nil {
				answerError(w, http.StatusBadRequest, &problem{Error: err.Error(), Code: enrol.BadRequest})
				return
			}
			if r.Leaf == nil {
				answerError(w, http.StatusUnauthorized, &problem{Error: "renewal needs the device's certificate in the TLS handshake", Code: enrol.BadProof})
				return
			}
			r.plain(w, &enrol.Request{Way: enrol.ByToken, CSR: []byte(in["csr"]), Proof: enrol.Certificate{Leaf: r.Leaf}})
		}},
		{Method: http.MethodGet, Path: "/roots.pem", Serve: func(w http.ResponseWriter, _ *Request) {
			w.Header().Set("Content-Type", "application/x-pem-file")
			_, _ = w.Write(s.cfg.Registrar.RootsPEM())
		}},
	}
}

// A granted is the answer to who was given a certificate.
type granted struct {
	Device      string    `json:"device"`
	Certificate string    `json:"certificate"` // PEM, with the intermediate's
	Roots       string    `json:"roots"`       // PEM
	NotAfter    time.Time `json:"not_after"`
}

// A problem is the answer to who was not.
type problem struct {
	Error     string     `json:"error"`
	Code      enrol.Code `json:"code"`
	Reference string     `json:"reference,omitempty"`
}

func (r *Request) plain(w http.ResponseWriter, q *enrol.Request) {
	iss, why := r.Enrol(q)
	if why != nil {
		RetryAfter(w, why)
		answerError(w, Status(why), &problem{why.Told(), why.Code, why.Reference})
		return
	}
	answer(w, http.StatusOK, &granted{
		Device: iss.Device.ID, Certificate: string(iss.ChainPEM), Roots: string(r.server.cfg.Registrar.RootsPEM()),
		NotAfter: iss.Chain[0].NotAfter.UTC(),
	})
}

// Status is the HTTP status that says why a request was refused.
func Status(why *enrol.Refusal) int {
	switch why.Code {
	case enrol.BadRequest, enrol.BadNames, enrol.BadKey, enrol.WeakCrypto:
		return http.StatusBadRequest
	case enrol.BadProof:
		return http.StatusUnauthorized
	case enrol.OverQuota:
		return http.StatusTooManyRequests
	case enrol.Waiting:
		return http.StatusAccepted
	case enrol.Busy:
		return http.StatusServiceUnavailable
	}
	return http.StatusForbidden
}

const (
	// busyRetry is when to come again after something of ours failed.
	busyRetry = 30 * time.Second
	// quotaRetry is when to come again after having been given enough.
	quotaRetry = time.Hour
	// waitingRetry is when to come again while waiting for an operator's approval.
	waitingRetry = 5 * time.Minute
)

// RetryAfter says when it is worth coming again, if it is.
func RetryAfter(w http.ResponseWriter, why *enrol.Refusal) {
	switch why.Code {
	case enrol.Busy:
		w.Header().Set("Retry-After", seconds(busyRetry))
	case enrol.OverQuota:
		w.Header().Set("Retry-After", seconds(quotaRetry))
	case enrol.Waiting:
		w.Header().Set("Retry-After", seconds(waitingRetry))
	}
}

func answerError(w http.ResponseWriter, status int, p *problem) {
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Token realm="anteroom enrolment"`)
	}
	answer(w, status, p)
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer can not be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// Strings reads the body as one JSON object with the named texts, each there once
// and no others.
func (r *Request) Strings(names ...string) (map[string]string, error) {
	known := map[string]bool{}
	for _, n := range names {
		known[n] = true
	}
	notOurs := fmt.Errorf("the body is not a JSON object with exactly these texts: %v", names)
	dec := json.NewDecoder(bytes.NewReader(r.Body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, notOurs
	}
	out := map[string]string{}
	for dec.More() {
		k, err := dec.Token()
		name, ok := k.(string)
		if err != nil || !ok || !known[name] {
			return nil, notOurs
		}
		v, err := dec.Token()
		text, ok := v.(string)
		if _, twice := out[name]; err != nil || !ok || twice {
			return nil, notOurs
		}
		out[name] = text
	}
	if t, err := dec.Token(); err != nil || t != json.Delim('}') || len(out) != len(known) {
		return nil, notOurs
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, notOurs
	}
	return out, nil
}
