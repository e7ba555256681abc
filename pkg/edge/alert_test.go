package edge

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// TestWhatADeviceSaysOfOurCertificateIsRecorded: encrypted as Go says it, and in the
// clear as OpenSSL does in TLS 1.3; what only looks like it is not taken for it.
func TestWhatADeviceSaysOfOurCertificateIsRecorded(t *testing.T) {
	f := newFixture(t, nil)
	c := f.client(f.enrol("monitor-1", time.Hour))
	code := func(n int) string {
		t.Helper()
		eventually(t, "a record", func() bool { return len(f.log.events("tls.refused")) == n })
		return f.log.events("tls.refused")[n-1].Detail[0].Value.Text()
	}
	early := c.Clone()
	early.Time = func() time.Time { return time.Now().AddDate(-30, 0, 0) }
	if conn, err := tls.Dial("tcp", f.addr, early); err == nil {
		conn.Close()
		t.Fatal("Go takes a certificate that is not valid yet")
	}
	if got := code(1); got != refusedByDevice {
		t.Errorf("recorded %s", got)
	}
	for i, tt := range []struct {
		sent string
		want string
	}{
		{"\x15\x03\x03\x00\x02\x02\x2d", refusedClock},
		{"\x15\x03\x03\x00\x02\x02\x2a", refusedByDevice},
		{"\x15\x03\x03\x00\x02\x02\x30", refusedByDevice},
		{"\x15\x03\x03\x00\x02\x02\x50", "device-alert"},
		{"\x17\x03\x03\x00\x02\x02\x2d", "handshake-broken"},
		{"\x15\x03\x03\x00\x03\x02\x2d\x00", "handshake-broken"},
	} {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		// Our own hello, and in place of what follows the alert.
		tc := tls.Client(&interrupted{Conn: conn, then: tt.sent}, c)
		if err := tc.Handshake(); err == nil {
			t.Error("it is a handshake")
		}
		conn.Close()
		if got := code(2 + i); got != tt.want {
			t.Errorf("%q: recorded %s, want %s", tt.sent, got, tt.want)
		}
	}
}

// interrupted is a connection that lets one flight pass and then sends something
// else.
type interrupted struct {
	net.Conn
	sent int
	then string
}

func (c *interrupted) Write(p []byte) (int, error) {
	if c.sent++; c.sent == 1 {
		return c.Conn.Write(p)
	}
	if c.sent == 2 {
		if _, err := io.WriteString(c.Conn, c.then); err != nil {
			return 0, err
		}
		// Until the other side has read it and said so.
		_, _ = io.Copy(io.Discard, c.Conn)
	}
	return 0, errors.New("interrupted")
}
