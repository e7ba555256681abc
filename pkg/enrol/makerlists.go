package enrol

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// maxLists bounds a file of a manufacturer's revocation lists, in bytes: some four
	// hundred thousand certificates.
	maxLists = 16 << 20
	// mostLists bounds how many are in it.
	mostLists = mostAnchors
)

// makerLists are the revocation lists (RFC 5280 §5) of one manufacturer's CAs, as a
// file has them that somebody else keeps current. It is looked at again whenever a
// device comes. What can not be read takes no good list's place; that one's time runs
// out.
type makerLists struct {
	path    string
	anchors []*x509.Certificate
	refuse  bool // who has no list in its validity

	mu    sync.Mutex
	seen  os.FileInfo // what was read last
	lists []*makerList
	err   error // why what is there now is not read
}

// A makerList is what one CA revoked.
type makerList struct {
	issuer     *x509.Certificate
	this, next time.Time
	revoked    map[string]struct{} // serial numbers
}

func openLists(path string, anchors []*x509.Certificate, refuse bool) (*makerLists, error) {
	l := &makerLists{path: path, anchors: anchors, refuse: refuse}
	l.refresh()
	return l, l.err
}

// refresh reads the file if it is another than before.
func (l *makerLists) refresh() {
	now, err := os.Stat(l.path)
	if err != nil {
		l.err = err
		return
	}
	if l.seen != nil && os.SameFile(now, l.seen) && now.Size() == l.seen.Size() && now.ModTime().Equal(l.seen.ModTime()) {
		return
	}
	l.seen = now
	lists, err := readLists(l.path, l.anchors)
	if l.err = err; err == nil {
		l.lists = lists
	}
}

// readLists reads lists in PEM form, or one in DER.
func readLists(path string, anchors []*x509.Certificate) (out []*makerList, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLists+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxLists {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxLists)
	}
	ders := [][]byte{data}
	if text := bytes.TrimSpace(data); bytes.HasPrefix(text, []byte("-----BEGIN ")) {
		ders = nil
		for rest := text; len(rest) > 0; rest = bytes.TrimSpace(rest) {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil || block.Type != "X509 CRL" || len(ders) == mostLists {
				return nil, fmt.Errorf("%s: it holds something that is no revocation list in PEM form, or more than %d of them", path, mostLists)
			}
			ders = append(ders, block.Bytes)
		}
	}
	for _, der := range ders {
		list, err := readList(der, anchors)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, other := range out {
			if other.issuer.Equal(list.issuer) {
				return nil, fmt.Errorf("%s: two lists of %q", path, list.issuer.Subject)
			}
		}
		out = append(out, list)
	}
	return out, nil
}

func readList(der []byte, anchors []*x509.Certificate) (*makerList, error) {
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("it is no revocation list: %w", err)
	}
	if crl.NextUpdate.IsZero() {
		return nil, errors.New("a list without an end (nextUpdate, RFC 5280 section 5.1.2.5)")
	}
	// Part of a list, a change of one, and one of another CA's certificates say so
	// critically: taken for a whole one they would leave certificates out.
	for _, ext := range crl.Extensions {
		if ext.Critical {
			return nil, fmt.Errorf("a list that is not a CA's whole one for itself (critical extension %v)", ext.Id)
		}
	}
	out := &makerList{this: crl.ThisUpdate, next: crl.NextUpdate, revoked: make(map[string]struct{}, len(crl.RevokedCertificateEntries))}
	for _, c := range anchors {
		if bytes.Equal(c.RawSubject, crl.RawIssuer) && crl.CheckSignatureFrom(c) == nil {
			out.issuer = c
			break
		}
	}
	if out.issuer == nil {
		return nil, errors.New("a list that none of the anchors signed, or may sign (RFC 5280 section 4.2.1.3, cRLSign)")
	}
	for _, e := range crl.RevokedCertificateEntries {
		for _, ext := range e.Extensions {
			if ext.Critical {
				return nil, fmt.Errorf("an entry with a critical extension %v", ext.Id)
			}
		}
		out.revoked[e.SerialNumber.String()] = struct{}{}
	}
	return out, nil
}

func (l *makerList) inTime(now time.Time) bool { return !now.Before(l.this) && now.Before(l.next) }

// of returns the list of a CA, or nil. The CA is known by name and key: its
// certificate may have been made anew.
func (l *makerLists) of(issuer *x509.Certificate) *makerList {
	for _, list := range l.lists {
		if bytes.Equal(list.issuer.RawSubject, issuer.RawSubject) && bytes.Equal(list.issuer.RawSubjectPublicKeyInfo, issuer.RawSubjectPublicKeyInfo) {
			return list
		}
	}
	return nil
}

// above returns the list of the CA that signed an anchor, if that is an anchor too, or
// nil. Where a CA in between is one, a chain ends at it.
func (l *makerLists) above(anchor *x509.Certificate) *makerList {
	for _, list := range l.lists {
		if bytes.Equal(list.issuer.RawSubject, anchor.RawIssuer) && !list.issuer.Equal(anchor) && anchor.CheckSignatureFrom(list.issuer) == nil {
			return list
		}
	}
	return nil
}

// check refuses a device that its manufacturer revoked, or a CA between the two. Of
// the device's own CA there has to be a list in its validity, unless those without
// one may pass; of the CAs between a list may be there. chains lead from the device's
// certificate to an anchor.
func (l *makerLists) check(chains [][]*x509.Certificate, now time.Time) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refresh()
	for _, chain := range chains {
		for i, c := range chain {
			var list *makerList
			if i+1 < len(chain) {
				list = l.of(chain[i+1])
			} else {
				list = l.above(c)
			}
			switch {
			case list == nil && (i > 0 || !l.refuse):
				continue
			case list == nil:
				return l.because("there is no revocation list of the CA that signed it")
			}
			if _, listed := list.revoked[c.SerialNumber.String()]; listed {
				return errors.New("its manufacturer has revoked it, or a CA in its chain")
			}
			if l.refuse && !list.inTime(now) {
				return l.because("its manufacturer's revocation list was good from %s to %s", list.this.UTC().Format(time.RFC3339), list.next.UTC().Format(time.RFC3339))
			}
		}
	}
	return nil
}

// because says why a list is missed, and why there is no newer one if that is known.
func (l *makerLists) because(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if l.err != nil {
		return fmt.Errorf("%s, and what is there now can not be read: %w", text, l.err)
	}
	return errors.New(text + " (enrolment.manufacturers: crl, stale_crl)")
}

func (l *makerLists) stale(now time.Time) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refresh()
	for _, list := range l.lists {
		if !list.inTime(now) {
			return true
		}
	}
	return l.err != nil
}
