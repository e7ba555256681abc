package peers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// strongSwanPlugins is how the files of strongSwan's plugins begin on Debian.
const strongSwanPlugins = "/usr/lib/ipsec/plugins/libstrongswan-"

// Required reports whether a missing peer fails a test rather than skip it.
func Required() bool { return os.Getenv("ANTEROOM_REQUIRE_PEERS") == "1" }

// Need skips the test unless every peer named is here, or fails it if peers are
// required. Beside those below, a name is a program's that is looked for in PATH.
//
//	fhir-server    the FHIR server and its modules
//	fhir-examples  the official examples of FHIR R4
//	orthanc        Orthanc and its DICOMweb plugin
//	ct             a CT image (python3-pydicom's)
//	strongswan     strongSwan's pki, with its plugins for HTTP and elliptic curves
func Need(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := find(name); err != nil {
			if Required() {
				t.Fatalf("the peer %s is required: %v", name, err)
			}
			t.Skipf("needs the peer %s: %v", name, err)
		}
	}
}

// find says what is missing of a peer, and how to get it.
func find(name string) error {
	switch name {
	case "fhir-server":
		if _, err := exec.LookPath("node"); err != nil {
			return errors.New("node is not installed")
		}
		return module("fhir-server", "@medplum/fhir-router")
	case "fhir-examples":
		return module("fhir-examples", "hl7.fhir.r4.examples")
	case "orthanc":
		if _, err := orthancBinary(); err != nil {
			return errors.New("Orthanc is not installed (Debian: orthanc)")
		}
		return file(dicomWebPlugin, "Debian: orthanc-dicomweb")
	case "ct":
		return file(ctFile, "Debian: python3-pydicom")
	case "strongswan":
		if _, err := exec.LookPath("pki"); err != nil {
			return errors.New("pki is not installed (Debian: strongswan-pki)")
		}
		return errors.Join(file(strongSwanPlugins+"curl.so", "Debian: libstrongswan-extra-plugins"),
			file(strongSwanPlugins+"openssl.so", "Debian: libstrongswan-standard-plugins"))
	}
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%s is not installed", name)
	}
	return nil
}

// module looks for a npm module of one of the folders beside this file.
func module(folder, name string) error {
	dir, err := home()
	if err != nil {
		return err
	}
	return file(filepath.Join(dir, folder, "node_modules", filepath.FromSlash(name)), "run npm ci in integration/peers/"+folder)
}

func file(name, remedy string) error {
	_, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing (%s)", filepath.Base(name), remedy)
	}
	return err
}

// home returns the folder of this package's sources: tests run in the folder of
// their own package, somewhere in the module.
func home() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "integration", "peers"), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = up
	}
}
