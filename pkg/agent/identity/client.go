package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/agent/settings"
)

const (
	// maxAnswer bounds an answer of the enrolment listener.
	maxAnswer = 64 << 10
	// askTime bounds one question with its answer; the gateway has half of it.
	askTime = 60 * time.Second
	// maxRetryAfter bounds what a gateway can put off.
	maxRetryAfter = 6 * time.Hour
)

// A Refusal is the gateway's answer that it gives no certificate.
type Refusal struct {
	Text       string
	Code       string // such as proof, status or policy
	Reference  string // what the gateway's record is found by
	RetryAfter time.Duration
}

func (r *Refusal) Error() string {
	s := "the gateway refused: " + r.Text
	if r.Reference != "" {
		s += " (reference " + r.Reference + ")"
	}
	return s
}

// A Client asks the enrolment listener for certificates.
type Client struct {
	Settings settings.Enrolment
	Store    *Store
	Clock    func() time.Time
}

// Enrol gets the device's certificate for a one-time token.
func (c *Client) Enrol(ctx context.Context, token string) (*Identity, error) {
	roots, err := c.roots(ctx)
	if err != nil {
		return nil, err
	}
	return c.ask(ctx, "/enrol", map[string]string{"token": token}, enrolKey, &Identity{Roots: roots})
}

// Renew gets the next certificate for the one there is, with a new key.
func (c *Client) Renew(ctx context.Context, id *Identity) (*Identity, error) {
	with := &Identity{Roots: id.Roots, Pair: id.Pair}
	if c.Settings.CAFile != "" {
		var err error
		if with.Roots, err = readRoots(c.Settings.CAFile); err != nil {
			return nil, err
		}
	}
	return c.ask(ctx, "/enrol/renew", map[string]string{}, renewKey, with)
}

// ask makes the one request there is, as the identity given, and puts what it
// brings in force.
func (c *Client) ask(ctx context.Context, path string, body map[string]string, keyName string, as *Identity) (*Identity, error) {
	key, err := c.Store.key(keyName)
	if err != nil {
		return nil, err
	}
	if body["csr"], err = request(key); err != nil {
		return nil, err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	status, header, answer, err := c.do(ctx, http.MethodPost, path, text, c.tlsConfig(as))
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		why := refusal(status, header, answer)
		if why.Code == "key" {
			// Asking with it again would be refused for ever.
			return nil, errors.Join(why, c.Store.drop(keyName))
		}
		return nil, why
	}
	var granted struct{ Device, Certificate, Roots string }
	if err := json.Unmarshal(answer, &granted); err != nil {
		return nil, fmt.Errorf("the gateway's answer is not what it should be: %w", err)
	}
	id, err := c.Store.save(key, []byte(granted.Certificate), []byte(granted.Roots), c.Clock())
	if err != nil {
		return nil, err
	}
	// It is in identity.pem now.
	return id, c.Store.drop(keyName)
}

// request returns a signing request in PEM. It asks for no names: the token, or
// the certificate there is, says whose it is.
func request(key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

func readRoots(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	pool, err := parseRoots(data)
	if err != nil {
		return nil, fmt.Errorf("ca_file %s: %w", path, err)
	}
	return pool, nil
}

// do makes a request on a connection of its own. Redirections are not followed,
// and no proxy is asked.
func (c *Client) do(ctx context.Context, method, path string, body []byte, cfg *tls.Config) (int, http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.Settings.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	tr := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswer}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("ask %s: %w", c.Settings.URL, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("ask %s: %w", c.Settings.URL, err)
	}
	return resp.StatusCode, resp.Header, answer, nil
}

// maxText bounds what is shown of somebody else's text.
const maxText = 300

func refusal(status int, header http.Header, answer []byte) *Refusal {
	var p struct{ Error, Code, Reference string }
	if json.Unmarshal(answer, &p) != nil || p.Error == "" {
		p.Error = fmt.Sprintf("status %d: %s", status, bytes.TrimSpace(answer))
	}
	r := &Refusal{Text: clean(p.Error), Code: clean(p.Code), Reference: clean(p.Reference)}
	if n, err := strconv.Atoi(header.Get("Retry-After")); err == nil && n > 0 {
		r.RetryAfter = min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	return r
}

// clean keeps a text to one line that a terminal can show.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
