package bundle

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A bundleServer is a bundle server in memory, and what it was asked.
type bundleServer struct {
	t        *testing.T
	archive  []byte
	etag     string
	status   int // answered instead, if set
	down     bool
	length   int64 // announced, if set
	requests []*http.Request
}

func (s *bundleServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.requests = append(s.requests, r)
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(s.archive)), ContentLength: int64(len(s.archive)), Request: r}
	switch {
	case s.down:
		return nil, errors.New("connection refused")
	case s.status != 0:
		resp.StatusCode, resp.Body = s.status, io.NopCloser(strings.NewReader("some page"))
	case s.etag != "" && r.Header.Get("If-None-Match") == s.etag:
		resp.StatusCode, resp.Body = http.StatusNotModified, http.NoBody
	}
	if s.etag != "" {
		resp.Header.Set("ETag", s.etag)
	}
	if s.length != 0 {
		resp.ContentLength = s.length
	}
	return resp, nil
}

func (s *bundleServer) last() *http.Request { return s.requests[len(s.requests)-1] }

// serve has the server offer a bundle of a revision.
func (s *bundleServer) serve(revision string, key *ecdsa.PrivateKey, issued time.Time) {
	s.t.Helper()
	b, err := New([]File{{"a.rego", []byte("package a # " + revision)}}, Manifest{Revision: revision})
	if err != nil {
		s.t.Fatal(err)
	}
	if key != nil {
		if err := b.Sign(Signer{Key: key, KeyID: "k", Now: issued}); err != nil {
			s.t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if err := b.Write(&buf); err != nil {
		s.t.Fatal(err)
	}
	s.archive, s.etag = buf.Bytes(), `"`+revision+`"`
}

// A remoteRig is a Remote with what it did.
type remoteRig struct {
	*Remote
	t       *testing.T
	server  *bundleServer
	cfg     RemoteConfig
	now     time.Time
	inForce string
	checks  error
	forces  error
	refused []string
}

func newRemote(t *testing.T, key *ecdsa.PrivateKey) *remoteRig {
	r := &remoteRig{t: t, server: &bundleServer{t: t}, now: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)}
	r.cfg = RemoteConfig{
		URL: "https://bundles.example/ward.tar.gz", Transport: r.server, Interval: time.Minute, Limits: small, Dir: filepath.Join(t.TempDir(), "remote"),
		Check: func(context.Context, *Bundle) error { return r.checks },
		Enforce: func(_ context.Context, b *Bundle) error {
			if r.forces == nil {
				r.inForce = b.Manifest.Revision
			}
			return r.forces
		},
		Refused: func(rev string, why error) { r.refused = append(r.refused, rev+": "+why.Error()) },
		Now:     func() time.Time { return r.now },
	}
	if key != nil {
		r.cfg.Key = &Key{Public: key.Public(), ID: "k"}
	}
	r.restart()
	return r
}

// restart is what the gateway does when it starts.
func (r *remoteRig) restart() error {
	r.t.Helper()
	var err error
	if r.Remote, err = OpenRemote(r.cfg); err != nil {
		r.t.Fatal(err)
	}
	r.inForce = ""
	b, err := r.Kept(r.t.Context())
	if b != nil {
		r.inForce = b.Manifest.Revision
	}
	return err
}

// poll asks once and compares what is in force and what went wrong then.
func (r *remoteRig) poll(inForce, problem string) {
	r.t.Helper()
	err := r.Poll(r.t.Context())
	if r.inForce != inForce {
		r.t.Errorf("in force is %q, want %q (%v)", r.inForce, inForce, err)
	}
	if problem == "" && err != nil || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
		r.t.Errorf("error %v, want %q", err, problem)
	}
	if st := r.Status(); (st.Error != "") != (problem != "") || st.Revision != inForce {
		r.t.Errorf("status %+v", st)
	}
}

func TestABundleIsFetchedOnceAndOutlivesTheServer(t *testing.T) {
	key := keyOf(t)
	r := newRemote(t, key)
	r.server.down = true
	r.poll("", "connection refused")
	r.server.down = false
	r.server.serve("one", key, r.now)
	r.poll("one", "")
	if got := r.server.last().Header; got.Get("Prefer") != "modes=snapshot" || got.Get("If-None-Match") != "" {
		t.Errorf("asked with %v", got)
	}
	r.poll("one", "")
	if got := r.server.last().Header.Get("If-None-Match"); got != `"one"` {
		t.Errorf("asked with If-None-Match %q", got)
	}
	r.server.serve("two", key, r.now.Add(time.Second))
	r.poll("two", "")
	// The server is away, and the gateway starts: the last good one decides.
	r.server.down = true
	if err := r.restart(); err != nil || r.inForce != "two" {
		t.Fatalf("after a restart %q, %v", r.inForce, err)
	}
	r.poll("two", "connection refused")
	r.poll("two", "connection refused")
	if st := r.Status(); st.Failures != 2 || st.Fetched.IsZero() {
		t.Errorf("status %+v", st)
	}
	r.server.down = false
	r.poll("two", "")
	if got := r.server.last().Header.Get("If-None-Match"); got != `"two"` {
		t.Errorf("asked with If-None-Match %q after a restart", got)
	}
	if st := r.Status(); st.Failures != 0 || st.Checked.IsZero() {
		t.Errorf("status %+v", st)
	}
	if files, _ := filepath.Glob(filepath.Join(r.cfg.Dir, "*")); len(files) != 2 {
		t.Errorf("kept are %v", files)
	}
	// Another URL is another matter.
	r.cfg.URL += ".other"
	if err := r.restart(); err != nil {
		t.Fatal(err)
	}
	r.poll("two", "")
	if got := r.server.last().Header.Get("If-None-Match"); got != "" {
		t.Errorf("the ETag of another URL was sent: %q", got)
	}
}

func TestABadBundleChangesNothing(t *testing.T) {
	key, other := keyOf(t), keyOf(t)
	r := newRemote(t, key)
	r.server.serve("one", key, r.now)
	r.poll("one", "")
	r.server.serve("two", other, r.now)
	r.poll("one", "verify JWT signature")
	r.poll("one", "verify JWT signature")
	if len(r.refused) != 1 || !strings.HasPrefix(r.refused[0], "two: ") {
		t.Errorf("refused %v: each is to be reported once", r.refused)
	}
	r.server.serve("three", nil, r.now)
	r.poll("one", "there is none")
	r.checks = errors.New("a.rego:1: bad")
	r.server.serve("four", key, r.now)
	r.poll("one", "a.rego:1: bad")
	r.checks = nil
	r.poll("four", "")
	r.server.archive, r.server.etag = []byte("hello"), "x"
	r.poll("four", "not a gzipped archive")
	r.server.archive = archive(t, entry{name: "../../etc/passwd", body: "x"})
	r.poll("four", "not a plain path")
	r.server.archive = bytes.Repeat([]byte("x"), int(small.Archive())+1)
	r.poll("four", "larger than allowed")
	r.server.length, r.server.archive = 1<<40, nil
	r.poll("four", "larger than allowed")
	r.server.length = 0
	for _, status := range []int{301, 304, 401, 404, 500} {
		r.server.status = status
		if status == 304 { // not asked for
			r.live = ""
		}
		r.poll("four", "bundle server: answered")
	}
	if err := r.restart(); err != nil || r.inForce != "four" {
		t.Errorf("after a restart %q, %v", r.inForce, err)
	}
}

// An older bundle, validly signed, does not come back.
func TestAnOlderBundleIsAReplay(t *testing.T) {
	key := keyOf(t)
	r := newRemote(t, key)
	r.server.serve("one", key, r.now.Add(-time.Hour))
	r.poll("one", "")
	old := *r.server
	r.server.serve("two", key, r.now)
	r.poll("two", "")
	r.server.archive, r.server.etag = old.archive, old.etag
	r.poll("two", "made at 2027-01-02T02:04:05Z, before that of the bundle in force")
	if err := r.restart(); err != nil {
		t.Fatal(err)
	}
	r.poll("two", "sign it anew")
	r.server.serve("three", key, time.Time{})
	r.poll("two", "does not say when it was made")
	r.server.serve("four", key, r.now.Add(time.Hour))
	r.poll("two", "in the future")
	r.server.serve("one again", key, r.now.Add(time.Minute))
	r.poll("one again", "")
	// With another key a new order begins; nothing of the old key counts.
	next := keyOf(t)
	r.cfg.Key = &Key{Public: next.Public()}
	if err := r.restart(); !errors.Is(err, ErrSignature) || r.inForce != "" {
		t.Errorf("with another key %q, %v", r.inForce, err)
	}
	r.server.serve("five", next, r.now.Add(-time.Hour))
	r.poll("five", "")
}

func TestUnsignedBundlesOnlyIfAskedFor(t *testing.T) {
	r := newRemote(t, nil)
	r.server.serve("one", nil, time.Time{})
	r.poll("one", "")
	r.server.serve("two", keyOf(t), r.now)
	r.poll("two", "")
	if err := r.restart(); err != nil || r.inForce != "two" || !r.Status().Unsigned {
		t.Errorf("after a restart %q, %v", r.inForce, err)
	}
}

// A process is killed after a bundle was kept and before it was in force; and
// what was kept is damaged.
func TestWhatIsKeptIsWhatDecides(t *testing.T) {
	key := keyOf(t)
	r := newRemote(t, key)
	r.server.serve("one", key, r.now)
	r.poll("one", "")
	r.forces = errors.New("killed")
	r.server.serve("two", key, r.now.Add(time.Second))
	r.poll("one", "killed")
	r.poll("one", "killed") // it is asked for again, not taken to be there
	r.forces = nil
	if err := r.restart(); err != nil || r.inForce != "two" {
		t.Errorf("after a restart %q, %v", r.inForce, err)
	}
	r.checks = errors.New("does not load any more")
	if err := r.restart(); err == nil || r.inForce != "" {
		t.Errorf("%q, %v", r.inForce, err)
	}
	r.poll("", "does not load any more")
	r.checks = nil
	r.poll("two", "")
	files, err := filepath.Glob(filepath.Join(r.cfg.Dir, "*.tar.gz"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.restart(); err == nil || r.inForce != "" {
		t.Errorf("damaged: %q, %v", r.inForce, err)
	}
	r.poll("two", "")
	if err := r.restart(); err != nil || r.inForce != "two" {
		t.Errorf("mended: %q, %v", r.inForce, err)
	}
}

func TestTheTokenGoesWithTheQuestion(t *testing.T) {
	r := newRemote(t, nil)
	r.server.serve("one", nil, time.Time{})
	r.Remote.cfg.Token = func() ([]byte, error) { return []byte("secret"), nil }
	r.poll("one", "")
	if got := r.server.last().Header.Get("Authorization"); got != "Bearer secret" {
		t.Errorf("Authorization %q", got)
	}
	r.Remote.cfg.Token = func() ([]byte, error) { return nil, errors.New("no file") }
	r.poll("one", "token: no file")
}

// The waits grow while the server is away, never past the interval, and are
// never the same for all.
func TestRunWaits(t *testing.T) {
	r := newRemote(t, nil)
	r.server.down = true
	var waits []time.Duration
	ctx, cancel := context.WithCancel(t.Context())
	r.Remote.cfg.Wait = func(_ context.Context, d time.Duration) error {
		waits = append(waits, d)
		if len(waits) == 10 {
			r.server.down = false
			r.server.serve("one", nil, time.Time{})
		}
		if len(waits) == 12 {
			cancel()
		}
		return ctx.Err()
	}
	r.Run(ctx)
	if len(waits) != 12 || r.inForce != "one" {
		t.Fatalf("waited %v", waits)
	}
	for i, w := range waits {
		most := min(time.Minute, time.Second<<i)
		if i >= 10 {
			most = time.Minute
		}
		if w < most/2 || w > most {
			t.Errorf("wait %d is %v, want from %v to %v", i, w, most/2, most)
		}
	}
}
