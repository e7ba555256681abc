package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/visitor"
)

const (
	// MaxBody is the largest body of a request, in bytes: a signing request at its
	// limit takes a third of it in base64.
	MaxBody = 64 << 10
	// maxHead bounds a request's head; a token in a header is the longest there is.
	maxHead = 8 << 10
	// answerTime bounds the time to answer, issuing included.
	answerTime = 30 * time.Second
)

// An Endpoint is one thing that can be asked for.
type Endpoint struct {
	Method string
	// Path is the whole of it; one that ends in a slash is followed by a name of
	// letters, digits, '-' and '_'.
	Path  string
	Serve func(w http.ResponseWriter, r *Request)
	// Refuse, if it is there, says in its protocol's form that a request did not
	// keep the rules. It has the status and a text; headers are set.
	Refuse func(w http.ResponseWriter, r *Request, status int, text string)
	// Query says that a query may follow the path. Others have none.
	Query bool
	// Plain says that it may be asked for without TLS too, because its messages
	// protect themselves.
	Plain bool
}

// A Request is an HTTP request that keeps the rules.
type Request struct {
	*http.Request
	Body   []byte
	Remote netip.AddrPort
	// Leaf is the certificate that the client showed and has the key of, or nil.
	// Nothing else is known of it.
	Leaf *x509.Certificate
	// Chain is what the client showed beside it, which it proved nothing of.
	Chain []*x509.Certificate

	// Name is what follows the endpoint's path, if that ends in a slash.
	Name string

	server *Server
	refuse func(w http.ResponseWriter, r *Request, status int, text string)
}

// Config is what a [Server] is made from. Every field is required.
type Config struct {
	Registrar *enrol.Registrar
	Audit     enrol.Recorder
	Settings  func() config.Enrolment
	Endpoints []Endpoint
	Clock     func() time.Time
	Logger    *slog.Logger
	// Neighbourhood says what counts as one address.
	Neighbourhood func(netip.Addr) netip.Addr
}

// A Server answers at the enrolment listener.
type Server struct {
	cfg   Config
	limit *visitor.Limiter
	table map[string]map[string]*Endpoint // path, method
	http  *http.Server
	wg    sync.WaitGroup
}

// New returns a server.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, table: map[string]map[string]*Endpoint{}}
	s.limit = visitor.NewLimiter(func() visitor.Limits {
		l := cfg.Settings().Limits
		return visitor.Limits{Requests: l.Requests, Failures: l.Failures, Lockout: l.Lockout.D()}
	}, cfg.Clock)
	for _, e := range append(s.plain(), cfg.Endpoints...) {
		if s.table[e.Path] == nil {
			s.table[e.Path] = map[string]*Endpoint{}
		}
		if s.table[e.Path][e.Method] != nil {
			return nil, errors.New("two endpoints for " + e.Method + " " + e.Path)
		}
		s.table[e.Path][e.Method] = &e
	}
	lim := cfg.Settings().Limits
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: lim.Request.D(), ReadTimeout: lim.Request.D(), WriteTimeout: answerTime,
		IdleTimeout: lim.Idle.D(), MaxHeaderBytes: maxHead, DisableGeneralOptionsHandler: true,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 only
		// It would quote bytes of the peer's.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	return s, nil
}

// Serve answers on a listener until [Server.Close] is called; it may be called for
// several. On connections that are no *tls.Conn only plain endpoints are there.
func (s *Server) Serve(ln net.Listener) {
	s.wg.Go(func() {
		if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Logger.Error("the enrolment listener ended", "error", err)
		}
	})
}

// Close closes the listener, waits until ctx ends for requests under way, and
// then ends them.
func (s *Server) Close(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
	s.wg.Wait()
}

// serve holds a request to the rules and finds its endpoint.
func (s *Server) serve(w http.ResponseWriter, in *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	r := &Request{Request: in, server: s}
	var err error
	if r.Remote, err = netip.ParseAddrPort(in.RemoteAddr); err != nil {
		http.Error(w, "this is not how to come here", http.StatusBadRequest)
		return
	}
	methods := s.find(r)
	if wait, ok := s.limit.Allow(s.cfg.Neighbourhood(r.Remote.Addr())); !ok {
		w.Header().Set("Retry-After", seconds(wait))
		r.Refuse(w, http.StatusTooManyRequests, "too many requests from this address; try again later")
		return
	}
	if in.TLS != nil && len(in.TLS.PeerCertificates) > 0 {
		r.Leaf, r.Chain = in.TLS.PeerCertificates[0], in.TLS.PeerCertificates[1:]
	}
	switch {
	case !s.hosted(in.Host):
		http.Error(w, "the host is not one of this listener", http.StatusMisdirectedRequest)
		return
	case methods == nil:
		http.Error(w, "there is nothing here", http.StatusNotFound)
		return
	case in.Header.Get("Content-Encoding") != "":
		r.Refuse(w, http.StatusUnsupportedMediaType, "bodies are taken as they are")
		return
	}
	e := methods[in.Method]
	if e == nil {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
		r.Refuse(w, http.StatusMethodNotAllowed, "not with this method")
		return
	}
	r.Body, err = io.ReadAll(http.MaxBytesReader(w, in.Body, MaxBody))
	if err != nil {
		status := http.StatusBadRequest
		if errors.As(err, new(*http.MaxBytesError)) {
			status = http.StatusRequestEntityTooLarge
			s.oversized(in.Context(), r)
		}
		r.Refuse(w, status, "the body is broken, or larger than "+strconv.Itoa(MaxBody)+" bytes")
		return
	}
	e.Serve(w, r)
}

// find returns what there is at a request's path, by method, and nil if that is
// nothing. How its protocol refuses is kept in the request.
func (s *Server) find(r *Request) map[string]*Endpoint {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(r.RequestURI, path); !ok || rest != "" && (rest != "?"+r.URL.RawQuery || !s.mayQuery(path)) {
		// Queries where none may be, escapes, absolute forms: nothing here has two
		// spellings.
		return nil
	}
	i := strings.LastIndexByte(path, '/') + 1
	if i == len(path) {
		return nil // what is at a path that ends in a slash has a name behind it
	}
	methods := s.table[path]
	if methods == nil && validName(path[i:]) {
		methods, r.Name = s.table[path[:i]], path[i:]
	}
	for _, e := range methods {
		if r.TLS == nil && !e.Plain {
			return nil
		}
		if e.Refuse != nil {
			r.refuse = e.Refuse
		}
	}
	return methods
}

// mayQuery reports whether what is at a path takes a query.
func (s *Server) mayQuery(path string) bool {
	for _, e := range s.table[path] {
		return e.Query
	}
	return false
}

// maxName bounds the name behind a path.
const maxName = 64

func validName(name string) bool {
	return len(name) <= maxName && strings.IndexFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	}) < 0
}

// Source is what counts as the one address that the request came from.
func (r *Request) Source() netip.Addr { return r.server.cfg.Neighbourhood(r.Remote.Addr()) }

// Refuse answers that the request did not keep the rules.
func (r *Request) Refuse(w http.ResponseWriter, status int, text string) {
	if r.refuse != nil {
		r.refuse(w, r, status, text)
		return
	}
	http.Error(w, text, status)
}

// hosted reports whether a Host is one of the listener's, with any port.
func (s *Server) hosted(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return slices.Contains(s.cfg.Settings().Hosts, host)
}

// seconds is how Retry-After (RFC 9110 §10.2.3) says a time.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// Enrol has the registrar answer a request, and counts wrong secrets. The
// request's Remote and Listener are set here.
func (r *Request) Enrol(q *enrol.Request) (*enrol.Issued, *enrol.Refusal) {
	q.Remote, q.Listener = r.Remote, config.EnrolmentListener
	iss, err := r.server.cfg.Registrar.Enrol(r.Context(), q)
	if err == nil {
		return iss, nil
	}
	return nil, r.failed(q, err)
}

// Open has the registrar open an ACME account, and counts wrong secrets as Enrol does.
func (r *Request) Open(way enrol.Way, o *enrol.Opening) (deviceID string, why *enrol.Refusal) {
	q := &enrol.Request{Way: way, Remote: r.Remote, Listener: config.EnrolmentListener}
	id, err := r.server.cfg.Registrar.Open(r.Context(), q, o)
	if err != nil {
		return "", r.failed(q, err)
	}
	return id, nil
}

// Revoke has the registrar revoke one certificate. Exactly one of the results is there
// if it was not: the refusal, or an error that wraps [device.ErrWithdrawn].
func (r *Request) Revoke(q *enrol.Request, v *enrol.Revocation) (why *enrol.Refusal, err error) {
	q.Remote, q.Listener = r.Remote, config.EnrolmentListener
	_, err = r.server.cfg.Registrar.Revoke(r.Context(), q, v)
	if err == nil || errors.Is(err, device.ErrWithdrawn) {
		return nil, err
	}
	return r.failed(q, err), nil
}

// Refused records what an endpoint refused by itself; see [enrol.Registrar.Refuse].
func (r *Request) Refused(q *enrol.Request, err error) *enrol.Refusal {
	q.Remote, q.Listener = r.Remote, config.EnrolmentListener
	return r.failed(q, r.server.cfg.Registrar.Refuse(r.Context(), q, err))
}

// failed takes note of a refusal.
func (r *Request) failed(q *enrol.Request, err error) *enrol.Refusal {
	s := r.server
	why, ok := errors.AsType[*enrol.Refusal](err)
	if !ok { // it never is another
		why = &enrol.Refusal{Code: enrol.Busy, Why: err.Error(), Public: "the gateway can not issue a certificate now"}
	}
	if _, secret := q.Proof.(enrol.Secret); secret && why.Code == enrol.BadProof {
		if out := s.limit.Failed(s.cfg.Neighbourhood(r.Remote.Addr())); out > 0 {
			s.note(r.Context(), "enrolment.locked", r.Remote, "wrong secrets from one address",
				protocol.Field{Name: "seconds", Value: protocol.Int(int64(out / time.Second))})
		}
	}
	return why
}

// oversized records a body that was too large: it is as bad a request as one that
// was read.
func (s *Server) oversized(ctx context.Context, r *Request) {
	s.note(ctx, "enrolment.refused", r.Remote, "the body is larger than it may be", protocol.Field{Name: "code", Value: protocol.String(string(enrol.BadRequest))})
}

func (s *Server) note(ctx context.Context, event string, remote netip.AddrPort, text string, detail ...protocol.Field) {
	err := s.cfg.Audit.Append(context.WithoutCancel(ctx), &audit.Record{
		Kind: audit.KindDevice, Event: event, Listener: config.EnrolmentListener, Remote: remote, Error: text, Detail: detail,
	})
	if err != nil {
		s.cfg.Logger.Error("recording what happened at the enrolment listener", "event", event, "remote", remote.String(), "error", err)
	}
}
