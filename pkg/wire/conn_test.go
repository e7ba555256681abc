package wire

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// pair returns both ends of a connection; ours is wrapped.
func pair(t testing.TB, records bool) (*Conn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	theirs, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(ours.(*net.TCPConn), records)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); theirs.Close() })
	for _, conn := range []net.Conn{c, theirs} {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return c, theirs.(*net.TCPConn)
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// record returns a TLS record of n bytes of payload.
func record(n int) []byte { return append([]byte{23, 3, 3, byte(n >> 8), byte(n)}, random(n)...) }

func TestWhatWasSentIsRead(t *testing.T) {
	c, theirs := pair(t, false)
	sent := random(300 << 10)
	go func() {
		theirs.Write(sent)
		theirs.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	if c.buf != nil || c.Buffered() {
		t.Error("a buffer is held though nothing is in it")
	}
}

func TestRecordsAreHandedOutOneAtATime(t *testing.T) {
	c, theirs := pair(t, true)
	var sent []byte
	sizes := []int{0, 1, 4, 5, 100, 16384, 16640, 3, 1200, 0, 9000}
	for _, n := range sizes {
		sent = append(sent, record(n)...)
	}
	go func() {
		for rest := sent; len(rest) > 0; { // in odd pieces, also within headers
			n := min(len(rest), 7)
			theirs.Write(rest[:n])
			rest = rest[n:]
			n = min(len(rest), 4096)
			theirs.Write(rest[:n])
			rest = rest[n:]
		}
	}()
	p := make([]byte, 64<<10)
	for at, i := 0, 0; i < len(sizes); i++ {
		for left := headerSize + sizes[i]; left > 0; {
			n, err := c.Read(p)
			if err != nil {
				t.Fatal(err)
			}
			if n > left {
				t.Fatalf("record %d: %d bytes are left of it, and %d were handed out", i, left, n)
			}
			if !bytes.Equal(p[:n], sent[at:at+n]) {
				t.Fatal("other bytes than were sent")
			}
			at += n
			left -= n
		}
	}
	if c.Buffered() {
		t.Error("something is left over")
	}
}

func TestAQuestionIsSentWhenItsAnswerIsWaitedFor(t *testing.T) {
	c, theirs := pair(t, false)
	p := make([]byte, 256<<10)
	for i, size := range []int{10, 70 << 10, 1, 63 << 10} {
		question, answer := random(size), random(20)
		c.Ask(i > 0)
		if n, err := c.Write(question[:size/2]); n != size/2 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := c.Write(question[size/2:]); n != size-size/2 || err != nil {
			t.Fatal(n, err)
		}
		go func() {
			got := make([]byte, size)
			if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, question) {
				t.Error("the question did not arrive as it was asked", err)
			}
			theirs.Write(answer)
		}()
		if _, err := io.ReadFull(c, p[:len(answer)]); err != nil || !bytes.Equal(p[:len(answer)], answer) {
			t.Fatal("the answer did not arrive", err)
		}
	}
}

// A question larger than the kernel takes at once, to a peer that takes its time.
func TestALargeQuestionIsSentWhole(t *testing.T) {
	c, theirs := pair(t, false)
	if err := c.tcp.SetWriteBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	question := random(askMost)
	for i := range 5 {
		c.Ask(i > 0)
		if _, err := c.Write(question); err != nil {
			t.Fatal(err)
		}
		go func() {
			got := make([]byte, len(question))
			if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, question) {
				t.Error("the question did not arrive as it was asked", err)
			}
			theirs.Write([]byte{byte(i)})
		}()
		var p [1]byte
		if _, err := io.ReadFull(c, p[:]); err != nil || p[0] != byte(i) {
			t.Fatal(p, err)
		}
	}
}

func TestNothingIsSentOnAConnectionThatIsNotAsItWas(t *testing.T) {
	for what, spoil := range map[string]func(*net.TCPConn){
		"closed":    func(c *net.TCPConn) { c.CloseWrite() },
		"reset":     func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"left over": func(c *net.TCPConn) { c.Write([]byte("x")) },
	} {
		for _, send := range []bool{false, true} {
			c, theirs := pair(t, false)
			spoil(theirs)
			// What the peer did takes a moment to arrive; until then a question is
			// sent, and nobody answers it.
			var err error
			for end := time.Now().Add(patience); ; {
				c.Ask(true)
				if _, err = c.Write([]byte("question")); err != nil {
					t.Fatal(what, err)
				}
				if send {
					err = c.Send()
				} else {
					if err = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
						t.Fatal(err)
					}
					_, err = c.Read(make([]byte, 1))
				}
				if errors.Is(err, ErrStale) {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%s: %v", what, err)
				}
			}
		}
	}
}

func TestDeadlinesHold(t *testing.T) {
	c, _ := pair(t, false)
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var ne net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("got %v", err)
	}
	if c.buf != nil {
		t.Error("a buffer is held though nothing is in it")
	}
	c.Ask(false)
	c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestClosingEndsARead(t *testing.T) {
	c, _ := pair(t, false)
	done := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	c.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A question and its answer on a connection that stays open, with and without.
func BenchmarkAsk(b *testing.B) {
	for name, plain := range map[string]bool{"wire": false, "net": true} {
		b.Run(name, func(b *testing.B) {
			c, theirs := pair(b, false)
			go io.Copy(theirs, theirs)
			var conn net.Conn = c
			if plain {
				conn = c.tcp
			}
			p := make([]byte, 1500)
			b.ReportAllocs()
			for b.Loop() {
				if !plain {
					c.Ask(true)
				}
				if _, err := conn.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
