// Package relay is the least a gateway in Go could do: it terminates TLS with a
// client certificate on one side, speaks TLS with the backend on the other, and
// copies bytes between, without reading one of them. What a gateway uses beyond
// it is the price of what the gateway does.
//
// It runs as a process of its own on the server's core.
package relay

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// A Config says between whom it stands. Each address of Listen is for the
// backend at the same place in Backends.
type Config struct {
	Listen, Backends       []string
	Cert, Key              string // PEM files, its own
	DeviceCA               string // PEM file devices' certificates chain to
	BackendName, BackendCA string
}

// Main relays until it is ended from outside, and returns an exit code.
func Main(config string, stderr io.Writer) int {
	err := serve(config)
	fmt.Fprintln(stderr, "relay:", err)
	return 1
}

func serve(config string) error {
	var c Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return err
	}
	devices, err := pool(c.DeviceCA)
	if err != nil {
		return err
	}
	backends, err := pool(c.BackendCA)
	if err != nil {
		return err
	}
	front := &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: devices,
	}
	back := &tls.Config{
		ServerName: c.BackendName, RootCAs: backends, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519}, ClientSessionCache: tls.NewLRUClientSessionCache(0),
	}
	if len(c.Listen) == 0 || len(c.Listen) != len(c.Backends) {
		return errors.New("each address needs a backend")
	}
	failed := make(chan error, len(c.Listen))
	for i, addr := range c.Listen {
		ln, err := tls.Listen("tcp", addr, front)
		if err != nil {
			return err
		}
		go func() { failed <- accept(ln, c.Backends[i], back) }()
	}
	return <-failed
}

func pool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return p, nil
}

// accept serves connections until the listener fails.
func accept(ln net.Listener, backend string, conf *tls.Config) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go between(conn.(*tls.Conn), backend, conf)
	}
}

// between copies both ways until one side ends.
func between(device *tls.Conn, backend string, conf *tls.Config) {
	defer device.Close()
	if device.Handshake() != nil {
		return
	}
	upstream, err := tls.Dial("tcp", backend, conf)
	if err != nil {
		return
	}
	defer upstream.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(device, upstream)
		device.Close()
	}()
	_, _ = io.Copy(upstream, device)
	upstream.Close()
	<-done
}
