package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Where Debian puts Orthanc's DICOMweb plugin and pydicom's CT image.
const (
	dicomWebPlugin = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
	ctFile         = "/usr/lib/python3/dist-packages/pydicom/data/test_files/CT_small.dcm"
)

// orthancBinary finds Orthanc, which Debian puts where only root's PATH leads.
func orthancBinary() (string, error) {
	if p, err := exec.LookPath("Orthanc"); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/Orthanc")
}

// An Orthanc is a PACS with DICOMweb over plain HTTP, and no DIMSE.
type Orthanc struct {
	*Process
	Addr string // host:port
	URL  string // the server; DICOMweb is at /dicom-web/
}

// StartOrthanc starts an empty Orthanc.
func StartOrthanc(t testing.TB) *Orthanc {
	t.Helper()
	Need(t, "orthanc")
	bin, err := orthancBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	port := FreePort(t)
	config, err := json.Marshal(map[string]any{
		"Name": "AnteroomPeer", "StorageDirectory": "db", "IndexDirectory": "db",
		"HttpPort": port, "RemoteAccessAllowed": false, "AuthenticationEnabled": false,
		"DicomServerEnabled": false,
		"Plugins":            []string{dicomWebPlugin},
		"DicomWeb":           map[string]any{"Enable": true, "Root": "/dicom-web/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "orthanc.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	o := &Orthanc{Addr: fmt.Sprintf("127.0.0.1:%d", port)}
	o.URL = "http://" + o.Addr
	o.Process = Start(t, dir, nil, bin, "orthanc.json")
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	o.Ready(func() bool {
		resp, err := client.Get(o.URL + "/dicom-web/studies")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return o
}

// CT returns a DICOM file: one image of a CT.
func CT(t testing.TB) []byte {
	t.Helper()
	Need(t, "ct")
	b, err := os.ReadFile(ctFile)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// STOW returns the body of a STOW-RS request that stores the DICOM files, and its
// Content-Type (PS3.18 section 10.5).
func STOW(t testing.TB, files ...[]byte) (contentType string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, f := range files {
		part, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/dicom"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := part.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return `multipart/related; type="application/dicom"; boundary=` + w.Boundary(), b.Bytes()
}
