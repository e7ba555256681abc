package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// identity is one self-signed certificate for all three parties.
func identity(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DNSNames: []string{"x.example"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func listen(t *testing.T, conf *tls.Config) net.Listener {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestBytesPassBothWaysAndTheEndToo(t *testing.T) {
	cert, pool := identity(t)
	backend := listen(t, &tls.Config{Certificates: []tls.Certificate{cert}})
	go func() {
		conn, err := backend.Accept()
		if err != nil {
			return
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(conn, b); err == nil {
			_, _ = io.WriteString(conn, strings.ToUpper(string(b)))
		}
		conn.Close()
	}()
	front := listen(t, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	go func() {
		_ = accept(front, backend.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "x.example"})
	}()

	device, err := tls.Dial("tcp", front.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "x.example", Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if _, err := io.WriteString(device, "hello"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(device); err != nil || string(got) != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}

	stranger, err := tls.Dial("tcp", front.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "x.example"})
	if err == nil {
		defer stranger.Close()
		if _, err = stranger.Read(make([]byte, 1)); err == nil {
			t.Error("a device without a certificate is let through")
		}
	}
}

func TestAConfigurationThatIsNoneIsRefused(t *testing.T) {
	for _, bad := range []string{"", "{", `{"Cert":"/nowhere"}`} {
		if err := serve(bad); err == nil {
			t.Errorf("serve(%q) succeeds", bad)
		}
	}
}
