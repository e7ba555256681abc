package config

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	// minListUpdate and maxListUpdate bound the validity of revocation lists. A
	// list that never ends is one that nobody fetches again.
	minListUpdate = 10 * time.Minute
	maxListUpdate = 30 * 24 * time.Hour
	// minAnswer and maxAnswer bound the validity of an OCSP answer; the responder's
	// certificate lives for a day and must outlive it.
	minAnswer = time.Minute
	maxAnswer = 12 * time.Hour
	// maxURL bounds a URL that every certificate has.
	maxURL = 512
)

func (d *decoder) checkRevocation(f *File) {
	d.statusURL("ca.urls.crl", f.CA.URLs.CRL)
	d.statusURL("ca.urls.ocsp", f.CA.URLs.OCSP)
	r, at := &f.Revocation, "revocation"
	if u := r.NextUpdate.D(); u < minListUpdate || u > maxListUpdate {
		d.bad(at+".next_update", "it must be from 10m to 720h", "")
	}
	if u := r.OCSP.D(); u < minAnswer || u > maxAnswer {
		d.bad(at+".ocsp_next_update", "it must be from 1m to 12h", "")
	}
	l := &r.Limits
	if l.Connections < 1 || l.PerAddress < 1 || l.Requests < 1 {
		d.bad(at+".limits", "connections, per_address and requests must be at least 1", "")
	}
	if l.Request <= 0 || l.Idle <= 0 {
		d.bad(at+".limits", "request and idle must be more than nothing", "there is no waiting for ever")
	}
	if r.Address == "off" {
		return
	}
	if !hostPort(r.Address) {
		d.bad(at+".address", fmt.Sprintf("%q is neither host:port nor off", r.Address), "such as 0.0.0.0:8080")
		return
	}
	if strings.HasSuffix(r.Address, ":0") {
		return
	}
	if f.Enrolment.Address == r.Address {
		d.bad(at+".address", "the enrolment listener has the same address", "revocation has a listener of its own")
	}
	for i := range f.Listeners {
		if f.Listeners[i].Address == r.Address {
			d.bad(at+".address", fmt.Sprintf("listener %s has the same address", f.Listeners[i].Name), "revocation has a listener of its own")
		}
	}
}

// statusURL checks a URL that goes into certificates.
func (d *decoder) statusURL(at, s string) {
	if s == "" {
		return
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || len(s) > maxURL {
		d.bad(at, fmt.Sprintf("%.80q is not an http URL without query", s), "http and not https, because who checks a certificate must not have to check one first (RFC 5280 section 8)")
		return
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			d.bad(at, "it is not all ASCII", "certificates have URLs in ASCII; write others in their escaped form")
			return
		}
	}
}
