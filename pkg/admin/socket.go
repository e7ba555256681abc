package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

const (
	// maxCall bounds the arguments of a call, but of policy.push, and maxResult its result: a list
	// of a million devices fits.
	maxCall   = 1 << 20
	maxResult = 4 << 30
	// headTimeout bounds the head of a call; the calls themselves may take as
	// long as their clients wait.
	headTimeout = 5 * time.Second
	prefix      = "/v1/"
)

// A Server offers a service on the state directory's socket.
type Server struct {
	http *http.Server
	wg   sync.WaitGroup
}

type peerKey struct{}

// Listen offers a service on a Unix socket at path, which only its owner may
// open (0600), and asks the kernel who is calling: root and the owner of the
// process have every role, everyone else none.
func Listen(path string, s *Service, log *slog.Logger) (*Server, error) {
	// What is left of a gateway that was killed. The state directory is locked
	// by this process, so no other gateway answers there.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	ln, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	srv := &Server{http: &http.Server{
		ReadHeaderTimeout: headTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peerOf(c))
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(w, r, s) }),
	}}
	srv.wg.Go(func() { _ = srv.http.Serve(ln) })
	return srv, nil
}

// Close stops offering and waits for calls under way.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), headTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	s.wg.Wait()
	return err
}

// actorOf returns who a process of the given user is.
func actorOf(uid int) Actor {
	name := "uid " + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username
	}
	a := Actor{Name: "local:" + name}
	if uid == 0 || uid == os.Geteuid() {
		a.Roles = AllRoles
	}
	return a
}

// LocalActor returns who a command is that opens the state directory itself: who
// can read its keys can do everything already.
func LocalActor() Actor { return actorOf(os.Geteuid()) }

func handle(w http.ResponseWriter, r *http.Request, s *Service) {
	uid, ok := r.Context().Value(peerKey{}).(int)
	name, isCall := strings.CutPrefix(r.URL.Path, prefix)
	if r.Method != http.MethodPost || !isCall {
		answer(w, http.StatusNotFound, &Error{CodeInvalid, "no such call"})
		return
	}
	if !ok || uid < 0 {
		answer(w, http.StatusForbidden, &Error{CodeForbidden, "the kernel does not say who is calling"})
		return
	}
	arg, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.maxCall(name)))
	if err != nil {
		answer(w, http.StatusRequestEntityTooLarge, &Error{CodeInvalid, "the arguments are too large"})
		return
	}
	a := actorOf(uid)
	var out any
	if _, ok := outpours()[name]; ok {
		if err = pourOut(w, r, s, a, name, arg); err == nil {
			return
		}
	} else {
		out, err = s.Do(r.Context(), a, name, arg)
	}
	if err != nil {
		if errors.Is(err, errForbidden) {
			_ = s.cfg.State.Audit.Append(r.Context(), &audit.Record{
				Kind: audit.KindOperator, Event: "operator.forbidden", Operator: a.Name, Error: err.Error(),
				Detail: []protocol.Field{{Name: "operation", Value: protocol.String(name)}},
			})
		}
		answer(w, http.StatusUnprocessableEntity, &Error{codeOf(err), err.Error()})
		return
	}
	answer(w, http.StatusOK, out)
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"code":"internal","message":"the result can not be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// Dial returns the API of the gateway that runs on a socket. The error wraps
// [ErrNoGateway] if none does.
func Dial(ctx context.Context, path string) (*API, error) {
	d := &net.Dialer{Timeout: headTimeout}
	dial := func(ctx context.Context) (conn net.Conn, err error) {
		err = short(path, func(p string) error {
			conn, err = d.DialContext(ctx, "unix", p)
			return err
		})
		return conn, err
	}
	conn, err := dial(ctx)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("admin socket %s: only the gateway's user and root may open it: %w", path, err)
		}
		return nil, fmt.Errorf("%w on %s: %w", ErrNoGateway, path, err)
	}
	conn.Close()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	return &API{&remote{&http.Client{Transport: tr}}}, nil
}

// ErrNoGateway says that no gateway answers on a socket.
var ErrNoGateway = errors.New("no gateway runs")

type remote struct{ http *http.Client }

func (c *remote) post(ctx context.Context, name string, arg any) (*http.Response, error) {
	b, err := json.Marshal(arg)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://anteroom"+prefix+name, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the gateway went away: %w", err)
	}
	return resp, nil
}

func (c *remote) stream(ctx context.Context, name string, arg any, w io.Writer, result any) error {
	resp, err := c.post(ctx, name, arg)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answered(resp, result)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return err
	}
	return trailed(resp.Trailer, result)
}

func (c *remote) call(ctx context.Context, name string, arg, result any) error {
	resp, err := c.post(ctx, name, arg)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return answered(resp, result)
}

// answered reads the answer to a call.
func answered(resp *http.Response, result any) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResult))
	if err != nil {
		return fmt.Errorf("the gateway went away: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		e := &Error{}
		if err := json.Unmarshal(body, e); err != nil || e.Code == "" {
			return fmt.Errorf("the gateway answered %s", resp.Status)
		}
		return e
	}
	return json.Unmarshal(body, result)
}

func (c *remote) Close() error {
	c.http.CloseIdleConnections()
	return nil
}
