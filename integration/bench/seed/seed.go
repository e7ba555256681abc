// Package seed fills a gateway's registry with devices by the thousand, for
// scenarios that are about their number. It runs in a process of its own, before
// the gateway does.
//
// Records are made by the registry and certificates by the CA, as enrolling does
// it. What is left out is the time that a disk takes for each of them: records
// are written many at a time, and a seed that is cut short is no loss.
package seed

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/fleet"
	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// A Config says what to seed. Ids are the prefix and a number, from First on.
type Config struct {
	Config string // the gateway's configuration file
	Class  string
	Prefix string
	First  int
	Count  int
	// Out is the file that the devices with their certificates and keys are
	// appended to (fleet.ReadDevices). Without it devices are not meant to
	// connect: they get a fingerprint that no certificate has, and the CA is not
	// asked.
	Out string
	// Batch is how many records are written at a time; 0 for a good number.
	Batch int
}

// defaultBatch takes some tens of megabytes.
const defaultBatch = 10_000

// Main seeds, and returns an exit code.
func Main(ctx context.Context, conf string, stderr io.Writer) int {
	var c Config
	err := json.Unmarshal([]byte(conf), &c)
	if err == nil {
		err = seed(ctx, &c)
	}
	if err != nil {
		fmt.Fprintln(stderr, "seed:", err)
		return 1
	}
	return 0
}

func seed(ctx context.Context, c *Config) (err error) {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	st, err := bolt.Open(filepath.Join(cfg.StateDir, admin.StoreFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	certify := noCertificate
	if c.Out != "" {
		var done func() error
		if certify, done, err = certifier(ctx, c, cfg); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
	}
	batch := c.Batch
	if batch <= 0 {
		batch = defaultBatch
	}
	for first := c.First; first < c.First+c.Count; first += batch {
		// A registry that sees none of the records before it stays small.
		blind := &blindStore{Store: st}
		reg, err := device.Open(ctx, blind, device.Options{})
		if err != nil {
			return err
		}
		for i := first; i < min(first+batch, c.First+c.Count); i++ {
			id := fmt.Sprintf("%s%d", c.Prefix, i)
			cert, err := certify(ctx, id)
			if err != nil {
				return err
			}
			if _, err := reg.Create(ctx, &device.Record{
				ID: id, Class: c.Class, Status: device.Active, Manufacturer: "Bench", Model: "M1", Serial: fmt.Sprintf("SN-%08d", i),
				Location: fmt.Sprintf("ward-%d", i%40), Certificates: []device.Certificate{*cert},
			}); err != nil {
				return err
			}
		}
		if err := blind.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// certifier returns what has the CA issue a certificate and adds the device to
// the file, and what ends it.
func certifier(ctx context.Context, c *Config, cfg *config.File) (certify func(context.Context, string) (*device.Certificate, error), done func() error, err error) {
	pass, err := cfg.CA.Passphrase.Read()
	if err != nil {
		return nil, nil, err
	}
	defer clear(pass)
	authority, err := ca.Open(ctx, ca.Config{
		Dir: filepath.Join(cfg.StateDir, admin.CADir), TrustDomain: cfg.TrustDomain, Passphrase: pass, Backdate: cfg.CA.Backdate.D(),
	})
	if err != nil {
		return nil, nil, err
	}
	out, err := os.OpenFile(c.Out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, errors.Join(err, authority.Close())
	}
	w := fleet.NewDeviceWriter(out)
	certify = func(ctx context.Context, id string) (*device.Certificate, error) {
		key, csr, err := ca.NewKeyAndCSR(ca.KeyKinds()[0], id)
		if err != nil {
			return nil, err
		}
		iss, err := authority.Issue(ctx, ca.Request{Profile: ca.Device, ID: id, CSR: csr, TTL: cfg.CA.TTL.D()})
		if err != nil {
			return nil, err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		d := fleet.Device{ID: id, Key: private}
		for _, link := range iss.Chain {
			d.Chain = append(d.Chain, link.Raw)
		}
		sum := sha256.Sum256(iss.Leaf.Raw)
		return &device.Certificate{
			Serial: iss.Leaf.SerialNumber.String(), Fingerprint: hex.EncodeToString(sum[:]),
			NotBefore: iss.Leaf.NotBefore.UTC(), NotAfter: iss.Leaf.NotAfter.UTC(),
		}, w.Write(&d)
	}
	return certify, func() error { return errors.Join(w.Flush(), out.Close(), authority.Close()) }, nil
}

// noCertificate makes up what the registry would know of a certificate.
func noCertificate(context.Context, string) (*device.Certificate, error) {
	var b [sha256.Size]byte
	rand.Read(b[:])
	now := time.Now().UTC().Truncate(time.Second)
	return &device.Certificate{
		Serial: new(big.Int).SetBytes(b[:16]).String(), Fingerprint: hex.EncodeToString(b[:]), NotBefore: now, NotAfter: now.AddDate(1, 0, 0),
	}, nil
}
