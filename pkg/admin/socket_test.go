package admin

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// listen offers a house's service on a socket.
func (h *house) listen(path string) *API {
	h.t.Helper()
	srv, err := Listen(path, h.Service, slog.New(slog.DiscardHandler))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { srv.Close() })
	api, err := Dial(h.t.Context(), path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { api.Close() })
	return api
}

// TestBothWaysAreOne: through the socket and in the process, results and codes
// of errors are the same.
func TestBothWaysAreOne(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	far, near := h.listen(filepath.Join(h.dir, "s")), Local(h.Service, LocalActor())
	h.enroll("pump-1", "infusion-pump")
	for name, call := range map[string]func(*API) error{
		CodeNotFound: func(a *API) error { _, err := a.Show(t.Context(), "pump-9"); return err },
		CodeExists: func(a *API) error {
			_, err := a.Enroll(t.Context(), EnrollRequest{Device: device.Record{ID: "pump-1", Class: "x"}, CSR: csr(t, "pump-1")})
			return err
		},
		CodeInvalid: func(a *API) error { _, err := a.List(t.Context(), ListRequest{Status: "odd"}); return err },
		CodeConflict: func(a *API) error {
			_, err := a.SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: device.Active})
			if err != nil {
				return err
			}
			if _, err := a.SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: device.Quarantined}); err != nil {
				return err
			}
			defer a.SetStatus(t.Context(), StatusRequest{ID: "pump-1", To: device.Active})
			_, err = a.Renew(t.Context(), RenewRequest{ID: "pump-1", CSR: csr(t, "pump-1")})
			return err
		},
		CodeNotRunning: func(a *API) error { _, err := a.Sessions(t.Context()); return err },
	} {
		var texts []string
		for _, api := range []*API{far, near} {
			var e *Error
			if err := call(api); !errors.As(err, &e) || e.Code != name {
				t.Errorf("%s: %v", name, err)
				continue
			}
			texts = append(texts, e.Message)
		}
		if len(texts) == 2 && texts[0] != texts[1] {
			t.Errorf("%s: %q and %q", name, texts[0], texts[1])
		}
	}
	a, err := far.Show(t.Context(), "pump-1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := near.Show(t.Context(), "pump-1")
	if err != nil || a.Revision != b.Revision || a.Certificates[0] != b.Certificates[0] {
		t.Errorf("%+v and %+v (%v)", a, b, err)
	}
}

// TestTheKernelSaysWhoCalls: nobody but root and the owner gets anywhere, and
// who tries is recorded.
func TestTheKernelSaysWhoCalls(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const stranger = 65534
	for _, uid := range []any{stranger, -1, nil, "0"} {
		r := httptest.NewRequest(http.MethodPost, "/v1/device.list", nil)
		r = r.WithContext(context.WithValue(r.Context(), peerKey{}, uid))
		w := httptest.NewRecorder()
		handle(w, r, h.Service)
		if !strings.Contains(w.Body.String(), CodeForbidden) {
			t.Errorf("uid %v: %s", uid, w.Body)
		}
	}
	if err := h.state.Audit.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := h.events(audit.Filter{Event: "operator.forbidden"}); len(got) != 1 {
		t.Errorf("records: %v", got)
	}
}

func TestTheSocketIsItsOwners(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	path := filepath.Join(h.dir, "s")
	// What a killed gateway leaves is no hindrance.
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	if _, err := Dial(t.Context(), path); !errors.Is(err, ErrNoGateway) {
		t.Errorf("a dead socket: %v", err)
	}
	h.listen(path)
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if _, err := Dial(t.Context(), filepath.Join(h.dir, "absent")); !errors.Is(err, ErrNoGateway) {
		t.Errorf("no socket: %v", err)
	}
}

// TestLongPaths: a socket's address holds 107 bytes, a path more.
func TestLongPaths(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	dir := filepath.Join(h.dir, strings.Repeat("long/", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	api := h.listen(filepath.Join(dir, SocketName))
	if _, err := api.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCallsAreBounded(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	api := h.listen(filepath.Join(h.dir, "s"))
	_, err := api.Show(t.Context(), strings.Repeat("x", maxCall))
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeInvalid || !strings.Contains(e.Message, "too large") {
		t.Errorf("%v", err)
	}
	for _, r := range []*http.Request{
		httptest.NewRequest(http.MethodGet, "/v1/status", nil),
		httptest.NewRequest(http.MethodPost, "/v2/status", nil),
		httptest.NewRequest(http.MethodPost, "/", nil),
	} {
		w := httptest.NewRecorder()
		handle(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, os.Geteuid())), h.Service)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s %s: %d", r.Method, r.URL, w.Code)
		}
	}
	for _, body := range []string{"{", "[]", `{"id":3}`, `"x"`, strings.Repeat("[", 1000)} {
		r := httptest.NewRequest(http.MethodPost, "/v1/device.show", strings.NewReader(body))
		w := httptest.NewRecorder()
		handle(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, os.Geteuid())), h.Service)
		if !strings.Contains(w.Body.String(), CodeInvalid) {
			t.Errorf("%.20s: %s", body, w.Body)
		}
	}
}

func TestOneProcessHasTheState(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if _, err := OpenState(t.Context(), h.state.Config(), slog.New(slog.DiscardHandler), nil); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
}
