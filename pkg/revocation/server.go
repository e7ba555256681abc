package revocation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/visitor"
)

// What can be asked for.
const (
	listPath = "/ca.crl" // of the intermediate that init made; each later one's has its name in the path
	ocspPath = "/ocsp"   // and below it, a request in base64 (RFC 6960 appendix A.1)
)

const (
	// maxHead bounds a request's head, and with it a request that is in its path.
	maxHead = 8 << 10
	// answerTime bounds the time to answer: a large list over a slow line.
	answerTime = 60 * time.Second
	// keep is how long others may keep what they were given without asking again.
	// It is short, because a revocation is not seen by who does not ask.
	keep = time.Minute
)

// ServerConfig is what a [Server] is made from. Every field is required.
type ServerConfig struct {
	Book     *Book
	Settings config.Revocation
	Clock    func() time.Time
	Logger   *slog.Logger
	// Neighbourhood says what counts as one address.
	Neighbourhood func(netip.Addr) netip.Addr
}

// A Server serves the revocation list and the OCSP responder in plain HTTP, and
// nothing else. What it says is signed, and public.
type Server struct {
	cfg       ServerConfig
	responder *Responder
	limit     *visitor.Limiter
	ln        *visitor.Listener
	http      *http.Server
	wg        sync.WaitGroup
}

// Serve listens and answers until [Server.Close] is called.
func Serve(ctx context.Context, cfg ServerConfig) (*Server, error) {
	set := cfg.Settings
	responder, err := NewResponder(cfg.Book, set.OCSP.D)
	if err != nil {
		return nil, err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", set.Address)
	if err != nil {
		return nil, fmt.Errorf("revocation listener: %w", err)
	}
	s := &Server{cfg: cfg, responder: responder, ln: visitor.NewListener(ln, set.Limits.Connections, set.Limits.PerAddress, cfg.Neighbourhood)}
	s.limit = visitor.NewLimiter(func() visitor.Limits { return visitor.Limits{Requests: set.Limits.Requests} }, cfg.Clock)
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: set.Limits.Request.D(), ReadTimeout: set.Limits.Request.D(), WriteTimeout: answerTime,
		IdleTimeout: set.Limits.Idle.D(), MaxHeaderBytes: maxHead, DisableGeneralOptionsHandler: true,
		// It would quote bytes of the peer's.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	s.wg.Go(func() {
		if err := s.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
			cfg.Logger.Error("the revocation listener ended", "error", err)
		}
	})
	return s, nil
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Connections returns how many connections are open.
func (s *Server) Connections() int64 { return s.ln.Connections() }

// Close closes the listener, waits until ctx ends for requests under way, and
// then ends them.
func (s *Server) Close(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
	s.wg.Wait()
}

// serve holds a request to the rules and finds what it is for.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "this is not how to come here", http.StatusBadRequest)
		return
	}
	if wait, ok := s.limit.Allow(s.cfg.Neighbourhood(remote.Addr())); !ok {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
		http.Error(w, "too many requests from this address; try again later", http.StatusTooManyRequests)
		return
	}
	// The path as it was sent: nothing but an OCSP request in it has escapes.
	encoded, inPath := strings.CutPrefix(r.RequestURI, ocspPath+"/")
	of := s.listOf(r.RequestURI)
	switch {
	case of != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		s.list(w, r, of)
	case of != nil:
		notWith(w, "GET, HEAD")
	case r.RequestURI == ocspPath && r.Method == http.MethodPost:
		s.post(w, r)
	case r.RequestURI == ocspPath:
		notWith(w, http.MethodPost)
	case inPath && r.Method == http.MethodGet:
		s.get(w, r, encoded)
	case inPath:
		notWith(w, http.MethodGet)
	default:
		http.Error(w, "there is nothing here", http.StatusNotFound)
	}
}

// listOf returns the intermediate whose list is at a path, or nil if none is.
func (s *Server) listOf(path string) *x509.Certificate {
	if path == listPath {
		return s.cfg.Book.cfg.CA.Original()
	}
	name, list := strings.CutPrefix(path, "/ca-")
	name, ends := strings.CutSuffix(name, ".crl")
	if !list || !ends {
		return nil
	}
	for _, c := range s.cfg.Book.cfg.CA.Intermediates() {
		if ca.ListName(c) == name {
			return c
		}
	}
	return nil
}

func notWith(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	http.Error(w, "not with this method", http.StatusMethodNotAllowed)
}

// list serves the revocation list. Who has it is told that it has not changed.
func (s *Server) list(w http.ResponseWriter, r *http.Request, of *x509.Certificate) {
	// Who hangs up is no reason to make no list, nor to write an error.
	l, err := s.cfg.Book.List(context.WithoutCancel(r.Context()), of)
	if err != nil {
		s.cfg.Logger.Error("there is no revocation list to serve", "error", err)
		http.Error(w, "there is no list now; try again later", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/pkix-crl")
	h.Set("Etag", `"`+strconv.FormatInt(l.Number, 10)+`"`)
	s.mayKeep(h, s.cfg.Clock(), l.NextUpdate)
	// Without a time of change: two lists can be of one second, numbers are not.
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(l.DER))
}

// mayKeep says for how long an answer may be kept (RFC 5019 §6.2).
func (s *Server) mayKeep(h http.Header, now, until time.Time) {
	age := max(0, min(keep, until.Sub(now)))
	h.Set("Cache-Control", fmt.Sprintf("max-age=%d, public, no-transform, must-revalidate", age/time.Second))
	h.Set("Expires", now.Add(age).UTC().Format(http.TimeFormat))
}

// post answers an OCSP request in a body.
func (s *Server) post(w http.ResponseWriter, r *http.Request) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/ocsp-request" || r.Header.Get("Content-Encoding") != "" {
		http.Error(w, "an OCSP request is application/ocsp-request, as it is", http.StatusUnsupportedMediaType)
		return
	}
	der, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			http.Error(w, "the request is larger than "+strconv.Itoa(maxRequest)+" bytes", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "the body is broken", http.StatusBadRequest)
		return
	}
	s.answer(w, r, der, false)
}

// get answers an OCSP request in a path.
func (s *Server) get(w http.ResponseWriter, r *http.Request, encoded string) {
	text, err := url.PathUnescape(encoded)
	var der []byte
	// The decoder would pass over line breaks.
	if err == nil && !strings.ContainsAny(text, "\r\n") {
		der, err = base64.StdEncoding.Strict().DecodeString(text)
	}
	if err != nil {
		der = nil // which is no request
	}
	s.answer(w, r, der, true)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, der []byte, cacheable bool) {
	a := s.responder.Answer(context.WithoutCancel(r.Context()), der)
	h := w.Header()
	h.Set("Content-Type", "application/ocsp-response")
	if cacheable && !a.Fresh && !a.Produced.IsZero() {
		sum := sha256.Sum256(a.DER)
		h.Set("Etag", `"`+hex.EncodeToString(sum[:])+`"`)
		h.Set("Last-Modified", a.Produced.Format(http.TimeFormat))
		s.mayKeep(h, a.Produced, a.NextUpdate)
	}
	h.Set("Content-Length", strconv.Itoa(len(a.DER)))
	_, _ = w.Write(a.DER)
}
