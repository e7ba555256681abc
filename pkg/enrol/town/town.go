package town

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/policy"
	"github.com/anteroom-iomt/anteroom/policies"
)

// Domain is the trust domain of the CA.
const Domain = "hospital.example"

// A Town is a CA and the policies that are shipped.
type Town struct {
	CA     *ca.Authority
	Policy *policy.Set
}

// Of a test process there is one, whatever package it tests.
var (
	share = sync.OnceValues(func() (*Town, error) {
		dir, err := os.MkdirTemp("", "anteroom-town-")
		if err != nil {
			return nil, err
		}
		built.Store(&dir)
		return build(context.Background(), dir)
	})
	built atomic.Pointer[string] // its directory
)

func build(ctx context.Context, dir string) (*Town, error) {
	if err := policies.Write(filepath.Join(dir, "policies")); err != nil {
		return nil, err
	}
	set, err := policy.Load(ctx, filepath.Join(dir, "policies"), policy.Options{})
	if err != nil {
		return nil, err
	}
	pass, home := []byte("a passphrase for tests"), filepath.Join(dir, "ca")
	if _, err := ca.Init(ctx, ca.InitConfig{Dir: home, TrustDomain: Domain, Organisation: "Test", Passphrase: pass}); err != nil {
		return nil, err
	}
	authority, err := ca.Open(ctx, ca.Config{Dir: home, TrustDomain: Domain, Passphrase: pass, Backdate: time.Hour})
	if err != nil {
		return nil, err
	}
	return &Town{CA: authority, Policy: set}, nil
}

// Share returns the town of this process.
func Share(t testing.TB) *Town {
	t.Helper()
	shared, err := share()
	if err != nil {
		t.Fatal(err)
	}
	return shared
}

// Main runs a package's tests, ends the town if there is one, and then holds that
// no goroutine is left. It returns what the process is to exit with.
func Main(m *testing.M) int {
	code := m.Run()
	if err := end(); err != nil {
		fmt.Fprintln(os.Stderr, "the town:", err)
		code = max(code, 1)
	}
	if code != 0 {
		return code
	}
	// The CA's database library links badger, which links glog.
	if err := goleak.Find(goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon")); err != nil {
		fmt.Fprintln(os.Stderr, "goroutines leaked:", err)
		return 1
	}
	return 0
}

func end() error {
	dir := built.Load()
	if dir == nil {
		return nil
	}
	var closed error
	if shared, err := share(); err == nil {
		closed = shared.CA.Close()
	}
	return errors.Join(closed, os.RemoveAll(*dir))
}
