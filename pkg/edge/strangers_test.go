package edge

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// TestWhoSaysNothingTakesNoPlaceOfADevices: somebody without a certificate opens
// all the connections a listener may have, and waits.
func TestWhoSaysNothingTakesNoPlaceOfADevices(t *testing.T) {
	f := newFixture(t, func(l *config.Listener) { l.Limits.Connections, l.Limits.Handshake = 80, config.Duration(time.Hour) })
	pair := f.enrol("monitor-1", time.Hour)
	for range 80 {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	eventually(t, "what is too many to be refused", func() bool {
		n := 0
		for _, r := range f.log.events("tls.refused") {
			if r.Detail[0].Value.Text() == "address-full" {
				n++
			}
		}
		return n == 80-strangersLeast
	})
	dial := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	raw, err := dial.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, f.client(pair))
	defer conn.Close()
	if line, err := say(conn, "hello"); err != nil || line != "monitor-1 hello" {
		t.Errorf("a device from elsewhere hears %q, %v", line, err)
	}
}

// TestWhoHasShownWhoItIsIsNoStranger: an address may have more devices than it may
// have strangers.
func TestWhoHasShownWhoItIsIsNoStranger(t *testing.T) {
	f := newFixture(t, func(l *config.Listener) { l.Limits.PerAddress = 1 })
	pair := f.enrol("monitor-1", time.Hour)
	for range 3 {
		conn, _, err := f.hello(f.client(pair))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
}

// TestAHandshakeThatIsNotFinishedIsCutOff: whether it began or not.
func TestAHandshakeThatIsNotFinishedIsCutOff(t *testing.T) {
	f := newFixture(t, func(l *config.Listener) { l.Limits.Handshake = config.Duration(50 * time.Millisecond) })
	for what, said := range map[string]string{"nothing": "", "the head of a record": "\x16\x03\x01\x02\x00\x01"} {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, said); err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("who says %s stays", what)
		}
	}
}

func TestHowManyStrangersAnAddressMayHave(t *testing.T) {
	for _, tt := range []struct{ connections, address, most int }{
		{100_000, 0, 12_500}, {100, 0, 64}, {10, 0, 9}, {1, 0, 1}, {100, 7, 7},
	} {
		if most := strangersMost(&config.Limits{Connections: tt.connections, PerAddress: tt.address}); most != tt.most {
			t.Errorf("%+v: %d", tt, most)
		}
	}
}
