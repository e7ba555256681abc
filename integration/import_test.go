package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// TestAnImportThatIsKilledLeavesNothingHalfDone: 10,000 rows are imported by a
// command that is killed again and again; each time what is there is whole, and
// the last run does the rest.
func TestAnImportThatIsKilledLeavesNothingHalfDone(t *testing.T) {
	t.Parallel()
	const rows = 10_000
	h := rig.New(t)
	var b strings.Builder
	b.WriteString("id,class,serial,location\n")
	bad := 0
	for n := range rows {
		id := fmt.Sprintf("pump-%05d", n)
		if n%1000 == 999 {
			id, bad = strings.ToUpper(id), bad+1
		}
		fmt.Fprintf(&b, "%s,infusion-pump,S%d,ward-%d\n", id, n, n%40)
	}
	h.Write("assets.csv", b.String())
	rnd := rand.New(rand.NewPCG(3, 4))
	have := func() int {
		t.Helper()
		var list []device.Record
		if err := json.Unmarshal([]byte(h.Must("device", "list", "--json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if r.Class != "infusion-pump" || r.Serial == "" || !strings.HasPrefix(r.Location, "ward-") || r.Status != device.Pending {
				t.Fatalf("half of a device: %+v", r)
			}
		}
		return len(list)
	}
	killed := 0
	for round := range 2 {
		cmd := exec.CommandContext(t.Context(), h.Bin, "device", "import", "assets.csv")
		cmd.Dir = h.Dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(time.Duration(300*(round+1)+rnd.IntN(700)) * time.Millisecond): // a random moment, not a wait for anything
			_ = cmd.Process.Kill()
			<-done
			killed++
		}
		if n := have(); n > rows-bad {
			t.Fatalf("%d devices", n)
		}
	}
	out, errs, code := h.Run("device", "import", "assets.csv", "--json")
	var res struct {
		Registered, Unchanged, Refused int
		Rows                           []struct {
			Line  int
			Error string
		}
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	if code != 1 || res.Registered+res.Unchanged != rows-bad || res.Refused != bad || len(res.Rows) != bad || res.Rows[0].Line != 1001 || !strings.Contains(res.Rows[0].Error, "PUMP-00999") {
		t.Errorf("exit %d, registered %d, unchanged %d, refused %d, %d rows reported", code, res.Registered, res.Unchanged, res.Refused, len(res.Rows))
	}
	if n := have(); n != rows-bad {
		t.Errorf("%d devices, want %d", n, rows-bad)
	}
	h.Must("audit", "verify")
	t.Logf("killed %d times; the last run registered %d and found %d", killed, res.Registered, res.Unchanged)
}
