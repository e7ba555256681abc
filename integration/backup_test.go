package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestAfterARestoreTheRevokedStayOut: a backup is taken while devices enrol, the
// state is destroyed with the gateway, and what is restored knows who was in and
// who was out, at the door and in the list that others see.
func TestAfterARestoreTheRevokedStayOut(t *testing.T) {
	t.Parallel()
	h := rig.New(t)
	h.Configure(simple(t))
	h.Write("archive-passphrase", "correct horse battery staple\n")
	h.Start()
	in, out := h.Enroll("pump-in", "infusion-pump"), h.Enroll("pump-out", "infusion-pump")
	h.Must("device", "revoke", "pump-out", "--yes")

	var enrolling sync.WaitGroup
	stop := make(chan struct{})
	enrolling.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, errs, code := h.Run("device", "enroll", fmt.Sprintf("pump-%d", i), "--class", "infusion-pump", "--out", h.Path("more", fmt.Sprint(i))); code != 0 {
				t.Errorf("enrolling during the backup: %s", errs)
				return
			}
		}
	})
	h.Must("backup", "--out", h.Path("b.age"), "--passphrase-file", h.Path("archive-passphrase"))
	close(stop)
	enrolling.Wait()
	late := h.Enroll("pump-late", "infusion-pump") // nobody will know it
	if st, err := os.Stat(h.Path("b.age")); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the archive: %v %v", st, err)
	}

	h.Kill()
	if err := os.RemoveAll(h.Path("state")); err != nil {
		t.Fatal(err)
	}
	said := h.Must("restore", "b.age", "--passphrase-file", h.Path("archive-passphrase"), "--root", h.RootFile())
	if !strings.Contains(said, "Not known here: what was revoked") {
		t.Error(said)
	}
	h.Start()
	h.WaitLog(0, "this state was restored from a backup of")
	if m := h.Metrics(); !strings.Contains(m, "anteroom_restored_unacknowledged 1") {
		t.Error("the metrics do not say that the state is a backup's")
	}
	ask := func(d *rig.Device) error {
		resp, err := h.Client(d).Get("https://" + h.Addr + "/fhir/metadata")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusInternalServerError || resp.StatusCode == http.StatusServiceUnavailable {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	}
	if err := ask(in); err != nil {
		t.Errorf("who was in is refused: %v", err)
	}
	for _, d := range []*rig.Device{out, late} {
		if err := ask(d); err == nil {
			t.Errorf("%s got in", d.ID)
		}
	}
	if list := h.Must("device", "list"); !strings.Contains(list, "revoked") {
		t.Error(list)
	}
	h.Must("audit", "verify")
	h.Must("restore", "--acknowledge")
	if m := h.Metrics(); !strings.Contains(m, "anteroom_restored_unacknowledged 0") {
		t.Error("the metrics go on saying that the state is a backup's")
	}
}
