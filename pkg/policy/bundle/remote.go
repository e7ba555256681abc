package bundle

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// firstDelay is the wait after the first failure; each further one doubles
	// it, up to the interval.
	firstDelay = time.Second
	// downloadTime bounds one question to the server, download included.
	downloadTime = 2 * time.Minute
	// clockSkew is how far ahead the clock of whoever signs may be.
	clockSkew = 5 * time.Minute
	// maxETag bounds what the server names a version.
	maxETag = 1 << 10
)

// RemoteConfig is what a [Remote] is made from. Key, Token, Logger and Wait may
// be nil.
type RemoteConfig struct {
	URL       string
	Transport http.RoundTripper
	// Key verifies the bundles; nil takes unsigned ones.
	Key *Key
	// Token returns the bearer token to send.
	Token    func() ([]byte, error)
	Interval time.Duration
	Limits   Limits
	// Dir keeps the last good bundle; this process owns it.
	Dir string
	// Check reports why a bundle could not be put in force; Enforce puts it in
	// force. Both are called by Run only.
	Check, Enforce func(context.Context, *Bundle) error
	// Refused is called when a bundle is refused, once for each.
	Refused func(revision string, why error)
	Now     func() time.Time
	Logger  *slog.Logger
	// Wait waits for a time or until the context ends. Nil waits by the clock.
	Wait func(context.Context, time.Duration) error
}

// RemoteStatus says how it goes with a bundle server.
type RemoteStatus struct {
	URL string `json:"url"`
	// Revision is the manifest's of the bundle in force, and Fetched when it
	// came.
	Revision string    `json:"revision,omitempty"`
	IssuedAt time.Time `json:"issued_at,omitzero"`
	Fetched  time.Time `json:"fetched,omitzero"`
	// Checked is when the server last said what it has.
	Checked time.Time `json:"checked,omitzero"`
	// Error is why the last question to the server changed nothing, and Failures
	// how many in a row did not.
	Error    string `json:"error,omitempty"`
	Failures int    `json:"failures,omitempty"`
	Unsigned bool   `json:"insecure_unsigned,omitempty"`
}

// A Remote asks a bundle server for its bundle, as OPA's bundle service API
// says: GET with If-None-Match, answered by 200 or 304. A bundle that is not
// signed as configured, is older than the one in force, or does not load changes
// nothing. The last good one is kept on disk.
type Remote struct {
	cfg RemoteConfig

	refused string // digest of the last bundle that was refused; Poll's own

	mu     sync.Mutex
	kept   kept   // on disk
	live   string // digest of the one in force
	status RemoteStatus
}

// OpenRemote opens what is kept, and asks nobody yet.
func OpenRemote(cfg RemoteConfig) (*Remote, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Wait == nil {
		cfg.Wait = wait
	}
	if cfg.Refused == nil {
		cfg.Refused = func(string, error) {}
	}
	r := &Remote{cfg: cfg, status: RemoteStatus{URL: cfg.URL, Unsigned: cfg.Key == nil}}
	return r, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Kept returns the last good bundle, verified and checked anew, or nil if there
// is none. Call it once, before Run; what it returns is taken to be in force.
func (r *Remote) Kept(ctx context.Context) (*Bundle, error) {
	k, archive, err := readKept(r.cfg.Dir, r.cfg.Limits)
	if err != nil || archive == nil {
		return nil, err
	}
	b, sig, err := r.open(archive)
	if err != nil {
		return nil, fmt.Errorf("the policy bundle that was kept: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Even one that does not load any more is not to be followed by an older one.
	r.kept = *k
	if err := r.cfg.Check(ctx, b); err != nil {
		return nil, fmt.Errorf("the policy bundle that was kept: %w", err)
	}
	r.live = k.Digest
	r.status.Revision, r.status.Fetched, r.status.IssuedAt = b.Manifest.Revision, k.Fetched, sig.IssuedAt
	return b, nil
}

// open unpacks and verifies.
func (r *Remote) open(archive []byte) (*Bundle, *Signature, error) {
	b, err := Read(bytes.NewReader(archive), r.cfg.Limits)
	if err != nil {
		return nil, nil, err
	}
	if r.cfg.Key == nil {
		return b, &Signature{}, nil
	}
	sig, err := b.Verify(*r.cfg.Key)
	return b, sig, err
}

// Status returns how it goes.
func (r *Remote) Status() RemoteStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Run asks until ctx ends.
func (r *Remote) Run(ctx context.Context) {
	for {
		err := r.Poll(ctx)
		if ctx.Err() != nil || r.cfg.Wait(ctx, r.delay(err)) != nil {
			return
		}
	}
}

// delay returns how long to wait: between half and the whole of the interval, so
// that a thousand gateways do not ask at once, and less after the first failures.
func (r *Remote) delay(err error) time.Duration {
	d := r.cfg.Interval
	if err != nil {
		if n := r.Status().Failures; n < 30 {
			d = min(d, firstDelay<<(n-1))
		}
	}
	var b [8]byte
	rand.Read(b[:])
	return d/2 + time.Duration(binary.BigEndian.Uint64(b[:])%uint64(d/2+1))
}

// Poll asks the server once; not at the same time as Run. The error says why nothing was changed; it is nil
// also if there was nothing new.
func (r *Remote) Poll(ctx context.Context) error {
	err := r.poll(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		if r.status.Failures > 0 {
			r.cfg.Logger.Info("the bundle server answers again", "url", r.cfg.URL)
		}
		r.status.Error, r.status.Failures = "", 0
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	r.status.Failures++
	if r.status.Error != err.Error() {
		r.cfg.Logger.Error("the policy bundle in force stays", "url", r.cfg.URL, "error", err)
	}
	r.status.Error = err.Error()
	return err
}

func (r *Remote) poll(ctx context.Context) error {
	archive, etag, err := r.download(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	now := r.cfg.Now().UTC()
	r.status.Checked = now
	was, live := r.kept, r.live
	r.mu.Unlock()
	if archive == nil {
		return nil
	}
	sum := sha256.Sum256(archive)
	next := kept{URL: r.cfg.URL, ETag: etag, Digest: hex.EncodeToString(sum[:]), Bytes: len(archive), Fetched: now}
	if next.Digest == live {
		// The same under another name.
		next.Fetched, next.IssuedAt = was.Fetched, was.IssuedAt
		return r.keep(next, nil)
	}
	b, sig, err := r.open(archive)
	if err == nil {
		err = inOrder(sig.IssuedAt, was.IssuedAt, now)
	}
	if err == nil {
		err = r.cfg.Check(ctx, b)
	}
	if err != nil {
		if ctx.Err() == nil && r.refused != next.Digest {
			r.refused = next.Digest
			revision := ""
			if b != nil {
				revision = b.Manifest.Revision
			}
			r.cfg.Refused(revision, err)
		}
		return fmt.Errorf("the server's bundle is refused: %w", err)
	}
	next.IssuedAt = sig.IssuedAt
	// On disk first: what decides must decide after a crash too.
	if err := r.keep(next, archive); err != nil {
		return err
	}
	if err := r.cfg.Enforce(ctx, b); err != nil {
		return err
	}
	r.refused = ""
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live = next.Digest
	r.status.Revision, r.status.Fetched, r.status.IssuedAt = b.Manifest.Revision, now, sig.IssuedAt
	return nil
}

// inOrder refuses a bundle that was signed before the one in force: a server, or
// whoever stands in its place, could otherwise bring back a policy that was
// withdrawn. To go back, the older set is signed anew.
func inOrder(issued, before, now time.Time) error {
	switch {
	case issued.IsZero() && !before.IsZero():
		return fmt.Errorf("%w: does not say when it was made (iat), and that of the bundle in force does", ErrSignature)
	case issued.Before(before):
		return fmt.Errorf("%w: made at %s, before that of the bundle in force (%s); to go back to an older set sign it anew",
			ErrSignature, issued.Format(time.RFC3339), before.Format(time.RFC3339))
	case issued.After(now.Add(clockSkew)):
		return fmt.Errorf("%w: made at %s, which is in the future", ErrSignature, issued.Format(time.RFC3339))
	}
	return nil
}

// download returns the server's archive, or nil if it is the one that is kept.
func (r *Remote) download(ctx context.Context) (archive []byte, etag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.cfg.URL, nil)
	if err != nil {
		return nil, "", fmt.Errorf("bundle server: %w", err)
	}
	req.Header.Set("Prefer", "modes=snapshot")
	req.Header.Set("User-Agent", "anteroom")
	r.mu.Lock()
	have := r.kept
	asked := have.ETag != "" && have.URL == r.cfg.URL && have.Digest == r.live
	r.mu.Unlock()
	if asked {
		req.Header.Set("If-None-Match", have.ETag)
	}
	if r.cfg.Token != nil {
		token, err := r.cfg.Token()
		if err != nil {
			return nil, "", fmt.Errorf("bundle server: token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+string(token))
		clear(token)
	}
	resp, err := r.cfg.Transport.RoundTrip(req)
	if err != nil {
		return nil, "", fmt.Errorf("bundle server: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && asked:
		return nil, "", nil
	case resp.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("bundle server: answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	limit := r.cfg.Limits.Archive()
	if resp.ContentLength > limit {
		return nil, "", fmt.Errorf("bundle server: %w", ErrTooLarge)
	}
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, &countedReader{r: resp.Body, left: limit}); err != nil {
		return nil, "", fmt.Errorf("bundle server: %w", err)
	}
	if etag = resp.Header.Get("ETag"); len(etag) > maxETag {
		etag = ""
	}
	return buf.Bytes(), etag, nil
}

// keep writes down what is good; without an archive only its name has changed.
func (r *Remote) keep(next kept, archive []byte) error {
	if r.cfg.Dir == "" {
		return errors.New("no directory to keep bundles in")
	}
	if err := writeKept(r.cfg.Dir, next, archive); err != nil {
		return fmt.Errorf("keep the policy bundle: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = next
	return nil
}
