package settings

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

const (
	// maxFile bounds what is read of a file that is said to be a configuration; the
	// decoder has its own limit below it.
	maxFile = 2 << 20
	// maxConnections is the most of one entry: each takes two buffers.
	maxConnections = 1024
	// maxMessage bounds one message, which is held in memory.
	maxMessage = 64 << 20
	// maxName bounds the name of an entry, which names a folder too.
	maxName = 63
)

// Load reads, checks and completes the configuration in a file. The error is a
// [*config.Error], or that of reading the file.
func Load(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse is [Load] for text that is at hand.
func Parse(path string, data []byte) (*File, error) {
	cfg := &File{Path: path}
	doc, err := config.Decode(path, data, cfg)
	if err != nil {
		return nil, err
	}
	cfg.check(doc)
	if err := doc.Err(); err != nil {
		return nil, err
	}
	base := filepath.Dir(path)
	resolve := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	resolve(&cfg.StateDir)
	resolve(&cfg.Enrolment.CAFile)
	for i := range cfg.Forward {
		resolve(&cfg.Forward[i].CAFile)
	}
	return cfg, nil
}

// check finds what is wrong with values, each by itself and beside the others,
// and fills in defaults that depend on others.
func (f *File) check(doc *config.Document) {
	if f.Version != 1 {
		doc.Wrong("version", "this program knows version 1 only", "")
	}
	if err := checkURL(f.Enrolment.URL); err != nil {
		doc.Wrong("enrolment.url", err.Error(), "write https://gateway.hospital.example:8444")
	}
	if device := f.TPM(); f.Key != "file" && (device == "" || !filepath.IsAbs(device)) {
		doc.Wrong("key", fmt.Sprintf("%q is no place for a key", f.Key), "write file, or tpm:/dev/tpmrm0")
	}
	if f.Enrolment.Root != "" {
		if _, err := Fingerprint(f.Enrolment.Root); err != nil {
			doc.Wrong("enrolment.root", err.Error(), "anteroom device token shows it")
		}
	}
	if len(f.Forward)+len(f.Reverse) == 0 {
		doc.Wrong("", "there is neither a forward nor a reverse entry", "the agent would have nothing to do")
	}
	names, listens := map[string]bool{}, map[string]bool{}
	common := func(path, name, listen string, connections int) {
		if !validName(name) {
			doc.Wrong(path+".name", fmt.Sprintf("%q is not a name", name), "lower-case letters, digits and '-'")
		} else if names[name] {
			doc.Wrong(path+".name", fmt.Sprintf("two entries have the name %q", name), "")
		}
		names[name] = true
		if err := checkAddress(listen, true); err != nil {
			doc.Wrong(path+".listen", err.Error(), "write 192.168.50.1:8080")
		} else if listens[listen] {
			doc.Wrong(path+".listen", fmt.Sprintf("two entries listen on %s", listen), "")
		}
		listens[listen] = true
		if connections < 1 || connections > maxConnections {
			doc.Wrong(path+".connections", fmt.Sprintf("from 1 to %d", maxConnections), "")
		}
	}
	for i := range f.Forward {
		path := fmt.Sprintf("forward[%d]", i)
		w := &f.Forward[i]
		common(path, w.Name, w.Listen, w.Connections)
		w.check(doc, path)
	}
	// The session at the gateway has the device's id, and two would end each other.
	sessions := 0
	for i := range f.Forward {
		if w := &f.Forward[i]; w.Protocol == "mqtt" && w.Store.On() {
			if sessions++; sessions == 2 {
				doc.Wrong(fmt.Sprintf("forward[%d].store", i), "one entry of mqtt can have a store", "two would have one session at the gateway")
			}
		}
	}
	for i := range f.Reverse {
		path := fmt.Sprintf("reverse[%d]", i)
		r := &f.Reverse[i]
		common(path, r.Name, r.Listen, r.Connections)
		if err := checkAddress(r.Device, false); err != nil {
			doc.Wrong(path+".device", err.Error(), "write 192.168.50.2:80")
		}
		if len(r.Pins) == 0 {
			doc.Wrong(path+".pins", "without a pin nobody gets in", "docs/agent.md says how to make one")
		}
		for j, p := range r.Pins {
			if _, err := Pin(p); err != nil {
				doc.Wrong(fmt.Sprintf("%s.pins[%d]", path, j), err.Error(), "")
			}
		}
		if r.Connect <= 0 {
			doc.Wrong(path+".connect", "a time above 0", "")
		}
	}
}

func (w *Forward) check(doc *config.Document, path string) {
	if a, err := netip.ParseAddr(w.Device); err != nil || a.IsUnspecified() || a.IsMulticast() {
		doc.Wrong(path+".device", fmt.Sprintf("%q is not the address of one device", w.Device), "write 192.168.50.2")
	}
	if err := checkAddress(w.Gateway, false); err != nil {
		doc.Wrong(path+".gateway", err.Error(), "write gateway.hospital.example:8443")
	} else if w.ServerName == "" {
		w.ServerName, _, _ = net.SplitHostPort(w.Gateway)
	}
	if w.ServerName != "" && strings.Trim(w.ServerName, "abcdefghijklmnopqrstuvwxyz0123456789.-:") != "" {
		doc.Wrong(path+".server_name", fmt.Sprintf("%q is not a name in lower case or an address", w.ServerName), "")
	}
	if w.Connect <= 0 {
		doc.Wrong(path+".connect", "a time above 0", "")
	}
	s := &w.Store
	if !s.On() {
		return
	}
	if w.Protocol != "mllp" && w.Protocol != "mqtt" {
		doc.Wrong(path+".store", fmt.Sprintf("what is %s is not stored", w.Protocol), "mllp and mqtt are")
	}
	if s.Message < 1 || s.Message > maxMessage || s.Message > s.Bytes {
		doc.Wrong(path+".store.message", fmt.Sprintf("from 1 to %v, and no more than bytes", config.Size(maxMessage)), "")
	}
	if s.Wait <= 0 {
		doc.Wrong(path+".store.wait", "a time above 0", "")
	}
	if s.Age <= 0 {
		doc.Wrong(path+".store.age", "a time above 0", "")
	}
	if s.Tries < 1 {
		doc.Wrong(path+".store.tries", "at least 1", "")
	}
}

// TPM returns the device of the TPM that keys are made in, or "".
func (f *File) TPM() string {
	device, ok := strings.CutPrefix(f.Key, "tpm:")
	if !ok {
		return ""
	}
	return device
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("%q is not the https address of an enrolment listener", s)
	}
	return nil
}

// checkAddress checks a host:port. A listener's host is an IP address, so that
// nothing depends on what a name means when it starts.
func checkAddress(s string, listen bool) error {
	host, port, err := net.SplitHostPort(s)
	if n, nerr := strconv.ParseUint(port, 10, 16); err != nil || nerr != nil || n == 0 || host == "" {
		return fmt.Errorf("%q is not a host and a port", s)
	}
	if _, err := netip.ParseAddr(host); listen && err != nil {
		return fmt.Errorf("%q does not begin with an IP address of this machine", s)
	}
	return nil
}

func validName(s string) bool {
	return s != "" && len(s) <= maxName && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// Fingerprint reads a SHA-256 fingerprint, with or without colons.
func Fingerprint(s string) (sum [sha256.Size]byte, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(s), ":", ""))
	if err != nil || len(raw) != len(sum) {
		return sum, errors.New("a fingerprint is SHA-256 in 64 hexadecimal digits")
	}
	return [sha256.Size]byte(raw), nil
}

// Pin reads the hash of a public key.
func Pin(s string) (sum [sha256.Size]byte, err error) {
	rest, ok := strings.CutPrefix(s, "sha256/")
	raw, err := base64.StdEncoding.DecodeString(rest)
	if !ok || err != nil || len(raw) != len(sum) {
		return sum, fmt.Errorf("pin %q is not sha256/ and 32 bytes in base64", s)
	}
	return [sha256.Size]byte(raw), nil
}
