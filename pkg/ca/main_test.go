package ca

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		child(role)
		return
	}
	code := m.Run()
	if madeIn != "" {
		_ = os.RemoveAll(madeIn)
	}
	if code == 0 {
		// glog starts one when the program starts: the engine links a database
		// driver (badger, never opened here) that links it.
		// certmagic's file storage keeps one for 5 s after a lock was released.
		if err := goleak.Find(
			goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
			goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines leaked:", err)
			code = 1
		}
	}
	os.Exit(code)
}
