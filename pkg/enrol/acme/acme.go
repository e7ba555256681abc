package acme

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"time"

	"crypto/x509"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// Where things are. A path that ends in a slash is followed by an id.
const (
	base          = "/acme"
	DirectoryPath = base + "/directory"
	noncePath     = base + "/new-nonce"
	newAccount    = base + "/new-account"
	newOrder      = base + "/new-order"
	keyChange     = base + "/key-change"
	revokeCert    = base + "/revoke-cert"
	accountPath   = base + "/account/"
	ordersPath    = base + "/orders/"
	orderPath     = base + "/order/"
	authzPath     = base + "/authorization/"
	challengePath = base + "/challenge/"
	finalizePath  = base + "/finalize/"
	certPath      = base + "/certificate/"
)

// Config is what ACME needs. Every field is required.
type Config struct {
	Registrar *enrol.Registrar
	Store     store.Store
	Settings  func() config.ACME
	Clock     func() time.Time
	// Show connects by TLS, with acme-tls/1 as the one protocol (RFC 8737 §3), and
	// returns the certificate that is shown for a name.
	Show func(ctx context.Context, conn net.Conn, name string) (*x509.Certificate, error)
	// Lookup finds the addresses of a name.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
}

type server struct {
	registrar *enrol.Registrar
	store     store.Store
	settings  func() config.ACME
	clock     func() time.Time
	show      func(ctx context.Context, conn net.Conn, name string) (*x509.Certificate, error)
	lookup    func(ctx context.Context, name string) ([]netip.Addr, error)
	nonces    *nonces
	busy      *busy
}

// Endpoints returns what ACME answers to.
func Endpoints(cfg Config) []web.Endpoint {
	s := &server{
		registrar: cfg.Registrar, store: cfg.Store, settings: cfg.Settings, clock: cfg.Clock, show: cfg.Show, lookup: cfg.Lookup,
		nonces: newNonces(cfg.Clock), busy: newBusy(cfg.Clock),
	}
	out := []web.Endpoint{
		{Method: http.MethodGet, Path: DirectoryPath, Serve: s.directory},
		{Method: http.MethodHead, Path: noncePath, Serve: s.newNonce(http.StatusOK)},
		{Method: http.MethodGet, Path: noncePath, Serve: s.newNonce(http.StatusNoContent)},
	}
	for path, e := range map[string]struct {
		from  who
		serve func(c *call) *fault
	}{
		newAccount:    {anyKey, (*call).newAccount},
		newOrder:      {anAccount, (*call).newOrder},
		keyChange:     {anAccount, (*call).changeKey},
		revokeCert:    {either, (*call).revoke},
		accountPath:   {anAccount, (*call).showAccount},
		ordersPath:    {anAccount, (*call).listOrders},
		orderPath:     {anAccount, (*call).showOrder},
		authzPath:     {anAccount, (*call).showAuthorization},
		challengePath: {anAccount, (*call).challenge},
		finalizePath:  {anAccount, (*call).finalize},
		certPath:      {anAccount, (*call).certificate},
	} {
		out = append(out, web.Endpoint{Method: http.MethodPost, Path: path, Serve: s.post(e.from, e.serve)})
	}
	for i := range out {
		out[i].Refuse = refuse
	}
	return out
}

// A call is one signed request.
type call struct {
	*web.Request
	w       http.ResponseWriter
	s       *server
	key     *jwk
	account *account       // nil if a key of its own speaks
	record  *device.Record // of the account's device
	device  string         // whose call it is, once that is sure
	payload []byte
}

// base is how the client calls this gateway; the listener has checked the host.
func (c *call) base() string { return "https://" + c.Host }

// post reads a signed request and serves it.
func (s *server) post(from who, serve func(c *call) *fault) func(http.ResponseWriter, *web.Request) {
	return func(w http.ResponseWriter, r *web.Request) {
		c := &call{Request: r, w: w, s: s}
		w.Header().Set("Replay-Nonce", s.nonces.make())
		w.Header().Set("Link", "<"+c.base()+DirectoryPath+`>;rel="index"`)
		f := c.read(from)
		if f == nil {
			f = serve(c)
		}
		if f != nil {
			c.fail(f)
		}
	}
}

// answer answers with JSON.
func (c *call) answer(status int, contentType string, v any) {
	if p, ok := v.(*problem); ok {
		status = p.Status
	}
	write(c.w, status, contentType, v)
}

func (s *server) directory(w http.ResponseWriter, r *web.Request) {
	at := "https://" + r.Host
	write(w, http.StatusOK, "application/json", map[string]any{
		"newNonce": at + noncePath, "newAccount": at + newAccount, "newOrder": at + newOrder, "keyChange": at + keyChange, "revokeCert": at + revokeCert,
		"meta": map[string]any{"externalAccountRequired": true},
	})
}

func (s *server) newNonce(status int) func(http.ResponseWriter, *web.Request) {
	return func(w http.ResponseWriter, r *web.Request) {
		w.Header().Set("Replay-Nonce", s.nonces.make())
		w.Header().Set("Link", "<https://"+r.Host+DirectoryPath+`>;rel="index"`)
		w.WriteHeader(status)
	}
}

// asked reads the payload, which is a JSON object. What is in it beside what is
// known here counts for nothing (RFC 8555 §7).
func (c *call) asked() (o map[string][]byte, f *fault) {
	raw, err := object(c.payload)
	if err != nil {
		return nil, notWellFormed("the payload: %v", err)
	}
	o = map[string][]byte{}
	for k, v := range raw {
		o[k] = v
	}
	return o, nil
}

// asGet refuses a payload where there is to be none (RFC 8555 §6.3).
func (c *call) asGet() *fault {
	if len(c.payload) != 0 {
		return notWellFormed("this is only read, with an empty payload (RFC 8555 section 6.3)")
	}
	return nil
}

func notThere() *fault {
	return faulty(malformed, http.StatusNotFound, enrol.BadRequest, "there is no such thing of this account's")
}
