package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pkiLife is how long the bench's certificates are valid: longer than any run.
const pkiLife = 24 * time.Hour

// A pki holds the paths of the certificates that the peers and the backend
// use. All keys are ECDSA P-256, as Anteroom's are.
type pki struct {
	deviceCA  string // root that device certificates chain to
	backendCA string // root of the backend's certificate
	server    pair   // the gateways' own, chaining to backendCA
	backend   pair
	device    pair
}

// A pair is a certificate chain and its key, in files.
type pair struct{ cert, key, both string }

// authority is a CA with its root and intermediate, like a real one: a chain of
// two is what a device sends.
type authority struct {
	root, inter *x509.Certificate
	key         *ecdsa.PrivateKey
}

// newPKI makes two authorities, one for devices and one for servers, and the
// certificates under them.
func newPKI(dir string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	devices, err := newAuthority("Bench devices")
	if err != nil {
		return nil, err
	}
	servers, err := newAuthority("Bench servers")
	if err != nil {
		return nil, err
	}
	p := &pki{deviceCA: filepath.Join(dir, "device-ca.pem"), backendCA: filepath.Join(dir, "server-ca.pem")}
	// HAProxy and nginx want the intermediate beside the root only when a
	// client leaves it out; ours send it.
	if err := writePEM(p.deviceCA, 0o644, block("CERTIFICATE", devices.root.Raw)); err != nil {
		return nil, err
	}
	if err := writePEM(p.backendCA, 0o644, block("CERTIFICATE", servers.root.Raw)); err != nil {
		return nil, err
	}
	server := &x509.Certificate{
		Subject: pkix.Name{CommonName: frontHost}, DNSNames: []string{frontHost},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if p.server, err = servers.issue(dir, "server", server); err != nil {
		return nil, err
	}
	back := &x509.Certificate{
		Subject: pkix.Name{CommonName: backendName}, DNSNames: []string{backendName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if p.backend, err = servers.issue(dir, "backend", back); err != nil {
		return nil, err
	}
	dev := &x509.Certificate{
		Subject: pkix.Name{CommonName: "bench-monitor"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if p.device, err = devices.issue(dir, "device", dev); err != nil {
		return nil, err
	}
	return p, nil
}

func newAuthority(name string) (*authority, error) {
	root := &x509.Certificate{
		Subject: pkix.Name{CommonName: name + " root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	rootKey, err := newKey()
	if err != nil {
		return nil, err
	}
	a := &authority{}
	if a.root, err = sign(root, root, &rootKey.PublicKey, rootKey); err != nil {
		return nil, err
	}
	if a.key, err = newKey(); err != nil {
		return nil, err
	}
	inter := &x509.Certificate{
		Subject: pkix.Name{CommonName: name + " intermediate"}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a.inter, err = sign(inter, a.root, &a.key.PublicKey, rootKey)
	return a, err
}

// issue signs template and writes chain, key, and both in one file.
func (a *authority) issue(dir, name string, template *x509.Certificate) (pair, error) {
	key, err := newKey()
	if err != nil {
		return pair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	leaf, err := sign(template, a.inter, &key.PublicKey, a.key)
	if err != nil {
		return pair{}, fmt.Errorf("sign %s: %w", name, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair{}, err
	}
	chain := append(block("CERTIFICATE", leaf.Raw), block("CERTIFICATE", a.inter.Raw)...)
	private := block("PRIVATE KEY", der)
	p := pair{
		cert: filepath.Join(dir, name+".pem"),
		key:  filepath.Join(dir, name+".key"),
		both: filepath.Join(dir, name+".both.pem"),
	}
	if err := writePEM(p.cert, 0o644, chain); err != nil {
		return pair{}, err
	}
	if err := writePEM(p.key, 0o600, private); err != nil {
		return pair{}, err
	}
	return p, writePEM(p.both, 0o600, append(chain, private...))
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func sign(template, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(pkiLife)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writePEM(path string, mode os.FileMode, b []byte) error { return os.WriteFile(path, b, mode) }
