package integration

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/rig"
	"github.com/anteroom-iomt/anteroom/pkg/admin"
	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// TestAGatewayStopsWhoseRegistryCanNotBeRead: a gateway serves devices while it reads
// its registry, so that it may find out late that a record is damaged. It names it
// and stops.
func TestAGatewayStopsWhoseRegistryCanNotBeRead(t *testing.T) {
	t.Parallel()
	h := rig.New(t)
	h.Configure(simple(t))
	pump := h.Enroll("pump-1", "infusion-pump")
	h.Start()
	if status, body := rig.Do(t, h.Client(pump), http.MethodGet, h.URL("/fhir/metadata"), "", ""); status == http.StatusServiceUnavailable || status == 0 {
		t.Fatalf("before: %d %s", status, body)
	}
	h.WaitLog(0, "the registry is in memory")
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	st, err := bolt.Open(h.Path("state", admin.StoreFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Update(context.Background(), func(w store.Writer) error {
		return w.Put("devices", "pump-2", []byte(`{"id":"pump-2","class":"infus`))
	}); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	_, errs, code := h.Run("run")
	if code != 1 || !strings.Contains(errs, "record of pump-2") {
		t.Errorf("exit %d: %s", code, errs)
	}
	// Commands that read all of it say so too.
	if _, errs, code := h.Run("device", "list"); code != 1 || !strings.Contains(errs, "record of pump-2") {
		t.Errorf("device list: exit %d: %s", code, errs)
	}
}
