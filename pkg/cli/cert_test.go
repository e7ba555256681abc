package cli

import (
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// Who revokes a certificate because its key is lost hears that another has that key.
func TestWhoRevokesOneCertificateHearsOfThoseForTheSameKey(t *testing.T) {
	now := time.Now()
	cert := func(serial, key string, revoked bool, left time.Duration) (c device.Certificate) {
		c.Serial, c.Key, c.NotAfter = serial, key, now.Add(left)
		if revoked {
			c.RevokedAt = now
		}
		return c
	}
	gone := cert("1", "k", true, time.Hour)
	for _, tt := range []struct {
		others []device.Certificate
		want   string
	}{
		{nil, "no other, so that it can do nothing until it is given one"},
		{[]device.Certificate{cert("2", "l", false, time.Hour)}, "1 other"},
		{[]device.Certificate{cert("2", "", false, time.Hour), cert("3", "k", true, time.Hour), cert("4", "k", false, -time.Hour)}, "1 other"},
		{[]device.Certificate{cert("2", "k", false, time.Hour)}, "1 other, for the same key: 2"},
		{[]device.Certificate{cert("2", "k", false, time.Hour), cert("3", "l", false, time.Hour), cert("4", "k", false, time.Hour)}, "3 others, of them for the same key: 2 4"},
	} {
		rec := &device.Record{ID: "pump-1", Status: device.Active, Certificates: append([]device.Certificate{gone}, tt.others...)}
		want := "Certificate 1 of pump-1 is revoked; the device is active and has " + tt.want
		if got := revokedText(&admin.RevokedCertificate{Device: rec, Serial: "1"}, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	old := &device.Record{ID: "pump-1", Status: device.Active, Certificates: []device.Certificate{cert("1", "", true, time.Hour), cert("2", "", false, time.Hour)}}
	if got := revokedText(&admin.RevokedCertificate{Device: old, Serial: "1"}, now); got != "Certificate 1 of pump-1 is revoked; the device is active and has 1 other" {
		t.Errorf("of keys that nobody recorded: %q", got)
	}
}
