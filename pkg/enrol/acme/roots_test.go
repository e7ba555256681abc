package acme

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// TestRootsThatAreNoneAreSaid before anybody needs them.
func TestRootsThatAreNoneAreSaid(t *testing.T) {
	good, bad := newMaker(t).root(), filepath.Join(t.TempDir(), "bad.pem")
	large := filepath.Join(t.TempDir(), "large.pem")
	for path, text := range map[string]string{bad: "hello", large: strings.Repeat("\n", maxRoots+1)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, fine := range map[string]bool{good: true, bad: false, large: false, "/nowhere": false} {
		err := CheckRoots([]config.ACMEAttestation{{Manufacturer: "A", Roots: good}, {Manufacturer: "B", Roots: path}})
		if (err == nil) != fine || err != nil && (!strings.HasPrefix(err.Error(), "B: ") || !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
