package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
	"github.com/anteroom-iomt/anteroom/integration/rig"
)

// TestACTIsStoredAndFoundThroughTheGateway is NIST SP 1800-24's flow with a real
// PACS: a scanner stores an image by STOW-RS and finds its study by QIDO-RS.
func TestACTIsStoredAndFoundThroughTheGateway(t *testing.T) {
	peers.Need(t, "orthanc", "ct")
	pacs := peers.StartOrthanc(t)
	h := rig.New(t)
	h.Configure(fmt.Sprintf(`routes:
  - {name: pacs, path: /dicom-web, backend: pacs}
backends:
  - {name: pacs, addresses: [%q], insecure: true}
`, pacs.Addr))
	h.Start()
	scanner, monitor := h.Enroll("ct-1", "ct-scanner"), h.Enroll("monitor-1", "patient-monitor")
	typ, body := peers.STOW(t, peers.CT(t))
	const study = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322" // of CT_small.dcm
	search := "/dicom-web/studies?StudyInstanceUID=" + study
	for _, tt := range []struct {
		name                    string
		d                       *rig.Device
		method, path, typ, body string
		status                  int
		want                    string
	}{
		{"a monitor may not store", monitor, "POST", "/dicom-web/studies", typ, string(body), 403, ""},
		{"nothing is there yet", scanner, "GET", search, "", "", 200, "[]"},
		{"the scanner stores", scanner, "POST", "/dicom-web/studies", typ, string(body), 200, "00081199"},
		{"the scanner finds", scanner, "GET", search, "", "", 200, study},
		{"a monitor may not find", monitor, "GET", search, "", "", 403, ""},
		{"the scanner may not list the archive", scanner, "GET", "/dicom-web/studies", "", "", 403, ""},
		{"the PACS's own API is out of reach", scanner, "GET", "/instances", "", "", 404, ""},
	} {
		for _, c := range []*http.Client{h.Client(tt.d), h.Client2(tt.d)} {
			status, got := rig.Do(t, c, tt.method, h.URL(tt.path), tt.typ, tt.body)
			if status != tt.status || !strings.Contains(strings.ReplaceAll(got, " ", ""), tt.want) {
				t.Errorf("%s: answered %d %.300s", tt.name, status, got)
			}
		}
	}
}
