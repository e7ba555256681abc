package wire

import (
	"errors"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestAwaitLeavesWhatArrivedWhereItIs(t *testing.T) {
	c, theirs := pair(t, false)
	tcp := c.Conn.(*net.TCPConn)
	came := make(chan error, 1)
	go func() { came <- Await(tcp) }()
	if _, err := theirs.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := <-came; err != nil {
		t.Fatal(err)
	}
	if c.Buffered() {
		t.Error("it was taken into a buffer")
	}
	b := make([]byte, 5)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if err := tcp.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := Await(tcp); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past its deadline: %v", err)
	}
}

func TestAPeerIsGoneThoughItsLastWordsAreUnread(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells what is behind what was not read")
	}
	c, theirs := pair(t, false)
	tcp := c.Conn.(*net.TCPConn)
	if _, err := theirs.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := Await(tcp); err != nil {
		t.Fatal(err)
	}
	if Gone(tcp) {
		t.Error("gone, though it is there")
	}
	theirs.Close()
	for end := time.Now().Add(patience); !Gone(tcp); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("closed, and never gone")
		}
	}
	c.Close()
	if !Gone(tcp) {
		t.Error("our own end is closed, and the peer is there")
	}
}
