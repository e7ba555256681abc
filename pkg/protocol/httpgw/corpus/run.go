package corpus

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Run sends the case over conn, which is open, past its TLS handshake, and in no
// other use, and reports what was answered otherwise than expected. host is the
// Host of the request that finds out whether the connection was kept. No single
// wait is longer than patience. Run closes conn.
func (c *Case) Run(conn net.Conn, host string, patience time.Duration) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	// A gateway that refuses early stops reading; that is not the case's failure.
	var sending sync.WaitGroup
	sending.Go(func() {
		conn.Write(c.Send)
		if cw, ok := conn.(interface{ CloseWrite() error }); ok && c.HalfClose {
			cw.CloseWrite()
		}
	})
	err := c.read(conn, host, &sending)
	conn.Close()
	sending.Wait()
	return err
}

func (c *Case) read(conn net.Conn, host string, sending *sync.WaitGroup) error {
	r := bufio.NewReader(conn)
	methods := c.methods()
	for _, want := range c.Statuses {
		method := http.MethodGet
		if len(methods) > 0 {
			method = methods[0]
		}
		got, err := answer(r, method)
		if err != nil {
			return fmt.Errorf("no answer %d: %w", want, err)
		}
		if got != want {
			return fmt.Errorf("answered %d, want %d", got, want)
		}
		if got >= 200 && len(methods) > 0 {
			methods = methods[1:]
		}
	}
	if !c.Kept {
		n, err := io.Copy(io.Discard, r)
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return errors.New("the connection was not closed")
		}
		if n > 0 {
			return fmt.Errorf("%d bytes after the last answer", n)
		}
		return nil
	}
	if c.HalfClose {
		return nil
	}
	sending.Wait()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", probe, host); err != nil {
		return fmt.Errorf("the connection was not kept: %w", err)
	}
	switch status, err := answer(r, http.MethodGet); {
	case err != nil:
		return fmt.Errorf("the connection was not kept: %w", err)
	case status != http.StatusOK:
		return fmt.Errorf("the connection was kept, but the next request on it is answered %d: the two sides disagree where it begins", status)
	}
	return nil
}

// probe is the target of the request that finds out whether a connection is in
// order still.
const probe = "/api/the-connection-was-kept"

// methods returns the methods of the requests in the case as far as they can be
// told, because an answer to HEAD has no body.
func (c *Case) methods() (out []string) {
	for _, m := range c.Arrives {
		out = append(out, m.Method)
	}
	if m, _, ok := strings.Cut(string(c.Send), " "); ok && len(out) == 0 {
		out = append(out, m)
	}
	return out
}

// answer reads one answer and returns its status.
func answer(r *bufio.Reader, method string) (int, error) {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return 0, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, nil
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode, err
}

// Check compares what arrived at the backend while the case ran with what must
// have. own are the fields the gateway sets and the one value each may have; ""
// stands for any value.
func (c *Case) Check(arrived []*http.Request, bodies []string, own map[string]string) error {
	var got []Request
	for i, r := range arrived {
		if r.RequestURI == probe {
			continue
		}
		for name, values := range r.Header {
			for _, v := range values {
				if strings.Contains(v, "forged") || strings.Contains(strings.ToLower(name), "forged") {
					return fmt.Errorf("a forged field arrived: %s", name)
				}
			}
		}
		q, err := reduce(r, bodies[i], own)
		if err != nil {
			return err
		}
		got = append(got, q)
	}
	if len(got) != len(c.Arrives) {
		return fmt.Errorf("%d requests arrived at the backend, want %d: %+v", len(got), len(c.Arrives), got)
	}
	for i, want := range c.Arrives {
		want.Fields = slices.Sorted(slices.Values(want.Fields))
		switch g := got[i]; {
		case g.Method != want.Method || g.Target != want.Target:
			return fmt.Errorf("arrived as %s %s, want %s %s", g.Method, g.Target, want.Method, want.Target)
		case !slices.Equal(g.Fields, want.Fields):
			return fmt.Errorf("arrived with fields %q, want %q", g.Fields, want.Fields)
		case g.Body != want.Body:
			return fmt.Errorf("arrived with body %.80q, want %.80q", g.Body, want.Body)
		}
	}
	return nil
}

// framing are the fields that belong to one connection, which the gateway makes
// for its own.
var framing = []string{"Content-Length", "Transfer-Encoding", "Connection", "Upgrade"}

// reduce leaves out of a request what is the gateway's own, and checks it.
func reduce(r *http.Request, body string, own map[string]string) (Request, error) {
	q := Request{Method: r.Method, Target: r.RequestURI, Body: body}
	for name, want := range own {
		got := r.Header.Values(name)
		if len(got) != 1 || want != "" && got[0] != want {
			return q, fmt.Errorf("the gateway's own field %s arrived as %q, want %q", name, got, want)
		}
	}
	for name, values := range r.Header {
		if _, ok := own[name]; ok || slices.Contains(framing, name) {
			continue
		}
		for _, v := range values {
			q.Fields = append(q.Fields, strings.ToLower(name)+": "+v)
		}
	}
	q.Fields = append(q.Fields, "host: "+r.Host)
	slices.Sort(q.Fields)
	return q, nil
}

// A Backend is an HTTP handler that answers 200 to everything and remembers what
// arrived.
type Backend struct {
	mu     sync.Mutex
	reqs   []*http.Request
	bodies []string
}

// ServeHTTP implements [http.Handler].
func (b *Backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		// The gateway cut the request off: to a backend, it did not happen.
		panic(http.ErrAbortHandler)
	}
	b.mu.Lock()
	b.reqs, b.bodies = append(b.reqs, r), append(b.bodies, string(body))
	b.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"resourceType":"Parameters"}`)
}

// Take returns what arrived since the last call.
func (b *Backend) Take() (reqs []*http.Request, bodies []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	reqs, bodies = b.reqs, b.bodies
	b.reqs, b.bodies = nil, nil
	return reqs, bodies
}
