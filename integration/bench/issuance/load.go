package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
)

// An issuer is a running CA that takes smallstep's sign request.
type issuer interface {
	name() string
	url() string
	roots() *x509.CertPool
	pid() int
	// tokens makes a one-time token for each of some devices.
	tokens(ctx context.Context, ids []string) ([]string, error)
	stop() error
}

// A sample is one round of one issuer.
type sample struct {
	rate float64       // certificates a second
	cpu  time.Duration // of the issuer, for one certificate
}

// issue has certificates issued and measures it. Keys, requests and tokens are made
// before the clock runs.
func issue(ctx context.Context, i issuer, opt options, round int) (sample, error) {
	ids, bodies := make([]string, opt.certificates), make([][]byte, opt.certificates)
	for n := range ids {
		ids[n] = fmt.Sprintf("pump-%d-%d", round, n)
	}
	tokens, err := i.tokens(ctx, ids)
	if err != nil {
		return sample{}, err
	}
	for n, id := range ids {
		_, csr, err := ca.NewKeyAndCSR(ca.P256, id)
		if err != nil {
			return sample{}, err
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr.Raw})
		if bodies[n], err = json.Marshal(map[string]string{"csr": string(text), "ott": tokens[n]}); err != nil {
			return sample{}, err
		}
	}
	before, err := processorTime(i.pid())
	if err != nil {
		return sample{}, err
	}
	var next atomic.Int64
	var once sync.Once
	var wg sync.WaitGroup
	began := time.Now()
	for range opt.clients {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < int64(len(ids)); n = next.Add(1) - 1 {
				if e := sign(ctx, i, bodies[n]); e != nil {
					once.Do(func() { err = e })
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err != nil {
		return sample{}, err
	}
	after, err := processorTime(i.pid())
	n := len(ids)
	return sample{float64(n) / took.Seconds(), (after - before) / time.Duration(n)}, err
}

// sign asks for one certificate, on a connection of its own as a device would, and
// checks what it is given.
func sign(ctx context.Context, i issuer, body []byte) error {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: i.roots(), ServerName: "localhost"}, DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url()+"/1.0/sign", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("answered %s: %.300s", resp.Status, data)
	}
	var out struct {
		Leaf  string   `json:"crt"`
		Chain []string `json:"certChain"`
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(out.Leaf))
	if block == nil {
		return fmt.Errorf("no certificate in %.300s", data)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range out.Chain {
		between.AppendCertsFromPEM([]byte(c))
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: i.roots(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// tick is the unit of a process's times in /proc (proc_pid_stat(5)).
const tick = time.Second / 100

// processorTime returns what a process has spent, in user and kernel mode.
func processorTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	var sum int64
	for _, text := range f[11:13] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}
