package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// maxCheckBody is how much of the answer to a check is read.
const maxCheckBody = 64 << 10

// AddressHealth describes an address for status pages.
type AddressHealth struct {
	Address string
	Healthy bool
	// Error is the last failure while the address is not healthy.
	Error string
}

// address is one address of a backend and how it is.
type address struct {
	name string
	pool pool
	// troubled is set while there is anything for succeeded to forget.
	troubled atomic.Bool

	mu       sync.Mutex
	failures int       // in a row
	aside    bool      // set aside for now
	until    time.Time // when it may be tried again, if nothing checks it
	last     error
}

// usable reports whether an address may be tried: it is healthy, or its time
// aside is over and nothing but use can find out. Then one request tries it, and
// the others only after another cooldown: they would all wait for a dead address.
func (a *address) usable(now time.Time, checked bool, cooldown time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.aside {
		return true
	}
	if checked || now.Before(a.until) {
		return false
	}
	a.until = now.Add(cooldown)
	return true
}

// failed counts a failure and reports whether it set the address aside.
func (a *address) failed(err error, limit int, until time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.troubled.Store(true)
	a.failures++
	a.last = err
	if a.failures < limit {
		return false
	}
	was := a.aside
	a.aside, a.until = true, until
	return !was
}

// succeeded forgets failures and reports whether the address had been set aside.
func (a *address) succeeded() bool {
	if !a.troubled.Load() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.aside
	a.failures, a.aside, a.last = 0, false, nil
	a.troubled.Store(false)
	return was
}

// ours reports whether an error is no sign against an address: a time was over,
// but meanwhile the address was well to others, so that it is we who are slow; or
// the check found no connection free.
func (a *address) ours(err error, began time.Time) bool {
	if _, busy := errors.AsType[busyError](err); busy || errors.Is(err, errFull) {
		return true
	}
	return isTimeout(err) && a.pool.wellSince(began)
}

// Health describes all addresses, in order of preference.
func (b *Backend) Health() []AddressHealth {
	out := make([]AddressHealth, len(b.addrs))
	for i, a := range b.addrs {
		a.mu.Lock()
		out[i] = AddressHealth{Address: a.name, Healthy: !a.aside}
		if a.aside && a.last != nil {
			out[i].Error = a.last.Error()
		}
		a.mu.Unlock()
	}
	return out
}

// order returns the addresses in the order they are to be tried: the usable ones
// by preference, and if there are none all of them, for a wrong judgement of
// ours must not be what keeps an alarm from its backend.
func (b *Backend) order() []*address {
	now := b.opt.Clock()
	out := make([]*address, 0, len(b.addrs))
	for _, a := range b.addrs {
		if a.usable(now, b.checked(), b.cfg.Health.Cooldown.D()) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return b.addrs
	}
	return out
}

func (b *Backend) checked() bool { return b.cfg.Health.Interval > 0 }

// note takes the result of using or checking an address into account.
func (b *Backend) note(a *address, err error) {
	if err == nil {
		if a.succeeded() {
			b.opt.Logger.Info("backend address is healthy again", "backend", b.cfg.Name, "address", a.name)
			b.changed(a.name, true)
		}
		return
	}
	if a.failed(err, max(b.cfg.Health.Failures, 1), b.opt.Clock().Add(b.cfg.Health.Cooldown.D())) {
		b.opt.Logger.Warn("backend address set aside", "backend", b.cfg.Name, "address", a.name, "error", err)
		b.changed(a.name, false)
	}
}

func (b *Backend) changed(addr string, healthy bool) {
	if b.opt.OnChange != nil {
		b.opt.OnChange(addr, healthy)
	}
}

// watch checks all addresses at every interval until ctx ends.
func (b *Backend) watch(ctx context.Context) {
	tick := time.NewTicker(b.cfg.Health.Interval.D())
	defer tick.Stop()
	for {
		var wg sync.WaitGroup
		for _, a := range b.addrs {
			wg.Go(func() {
				cctx, cancel := context.WithTimeout(ctx, b.cfg.Health.Timeout.D())
				defer cancel()
				began := time.Now()
				if err := b.check(cctx, a); ctx.Err() == nil && !a.ours(err, began) {
					b.note(a, err)
				}
			})
		}
		wg.Wait()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// check asks one address how it is.
func (b *Backend) check(ctx context.Context, a *address) error {
	if b.cfg.Health.Path == "" {
		conn, err := b.dial(ctx, a.name)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.scheme()+"://"+a.name+b.cfg.Health.Path, nil)
	if err != nil {
		return err
	}
	if b.cfg.Host != "" {
		req.Host = b.cfg.Host
	}
	resp, err := b.ask(req, a)
	if err != nil {
		return told(err)
	}
	defer resp.Body.Close()
	// Read to the end, so that the connection can be used for the next check.
	if _, err := io.CopyN(io.Discard, resp.Body, maxCheckBody); err != nil && !errors.Is(err, io.EOF) {
		return told(err)
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("health check: status %d", resp.StatusCode)
	}
	return nil
}

// Probe asks every address at once how it is, as the checks do, whether or not
// there are any, and says what each answered. No address is set aside for it.
func (b *Backend) Probe(ctx context.Context) []AddressHealth {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Health.Timeout.D())
	defer cancel()
	out := make([]AddressHealth, len(b.addrs))
	var wg sync.WaitGroup
	for i, a := range b.addrs {
		wg.Go(func() {
			out[i] = AddressHealth{Address: a.name, Healthy: true}
			if err := b.check(ctx, a); err != nil {
				out[i].Healthy, out[i].Error = false, err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

// ask sends a check to one address, which it neither praises nor blames.
func (b *Backend) ask(req *http.Request, a *address) (*http.Response, error) {
	if b.transport != nil {
		return b.transport.RoundTrip(req)
	}
	r, err := b.requestOf(req)
	if err != nil {
		return nil, err
	}
	resp := new(Response)
	if _, err := b.try(r, resp, a); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: resp.Status, Body: resp.Reader()}, nil
}
