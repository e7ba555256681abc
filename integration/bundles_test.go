package integration

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestBundlesOfAnImportThatIsKilledAreFinished: whatever the moment, run again the
// command leaves each device one whole bundle that the registry knows.
func TestBundlesOfAnImportThatIsKilledAreFinished(t *testing.T) {
	t.Parallel()
	const rows = 60
	h := rig.New(t)
	var b strings.Builder
	b.WriteString("id,class\n")
	for n := range rows {
		fmt.Fprintf(&b, "pump-%02d,infusion-pump\n", n)
	}
	h.Write("assets.csv", b.String())
	rnd := rand.New(rand.NewPCG(5, 6))
	killed := 0
	for range 3 {
		cmd := exec.CommandContext(t.Context(), h.Bin, "device", "import", "assets.csv", "--out", "bundles")
		cmd.Dir = h.Dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(time.Duration(200+rnd.IntN(600)) * time.Millisecond): // a random moment, not a wait for anything
			_ = cmd.Process.Kill()
			<-done
			killed++
		}
	}
	h.Must("device", "import", "assets.csv", "--out", "bundles")
	var list []device.Record
	if err := json.Unmarshal([]byte(h.Must("device", "list", "--json")), &list); err != nil || len(list) != rows {
		t.Fatalf("%d devices: %v", len(list), err)
	}
	for _, r := range list {
		pair, err := tls.LoadX509KeyPair(h.Path(filepath.Join("bundles", r.ID+".crt")), h.Path(filepath.Join("bundles", r.ID+".key")))
		if err != nil {
			t.Fatalf("%s: %v", r.ID, err)
		}
		sum := sha256.Sum256(pair.Leaf.Raw)
		if c := r.Certificate(hex.EncodeToString(sum[:])); r.Status != device.Active || c == nil || !c.RevokedAt.IsZero() {
			t.Errorf("%s is %s, and its bundle's certificate is not in the registry", r.ID, r.Status)
		}
	}
	h.Must("audit", "verify")
	t.Logf("killed %d times", killed)
}
