package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/peers"
)

// javaDevice is a device whose software is Java's: it knows its key and whom it
// trusts from two keystores, and sends an observation.
const javaDevice = `
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.*;
import java.security.KeyStore;
import javax.net.ssl.*;

class Device {
    static KeyStore open(String file, char[] password) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (FileInputStream in = new FileInputStream(file)) {
            store.load(in, password);
        }
        return store;
    }

    static String send(String store, char[] password, TrustManager[] trusted, HttpRequest request) throws Exception {
        try {
            KeyManagerFactory own = KeyManagerFactory.getInstance("PKIX");
            own.init(open(store, password), password);
            SSLContext tls = SSLContext.getInstance("TLS");
            tls.init(own.getKeyManagers(), trusted, null);
            return "status " + HttpClient.newBuilder().sslContext(tls).build().send(request, HttpResponse.BodyHandlers.ofString()).statusCode();
        } catch (java.io.IOException e) {
            return "refused: " + e;
        }
    }

    public static void main(String[] args) throws Exception {
        TrustManagerFactory trusted = TrustManagerFactory.getInstance("PKIX");
        trusted.init(open(args[0], args[1].toCharArray()));
        HttpRequest request = HttpRequest.newBuilder(URI.create(args[2])).version(HttpClient.Version.HTTP_1_1)
            .header("Content-Type", "application/fhir+json").POST(HttpRequest.BodyPublishers.ofString(args[3])).build();
        for (int i = 4; i < args.length; i += 2) {
            System.out.println(args[i] + " " + send(args[i], args[i + 1].toCharArray(), trusted.getTrustManagers(), request));
        }
    }
}
`

// TestAJavaDeviceReadsItsKeystore, in either encryption, and so reaches the gateway
// with nothing but the two files that an operator handed out.
func TestAJavaDeviceReadsItsKeystore(t *testing.T) {
	peers.Need(t, "java", "keytool")
	t.Parallel()
	h := newEnrolling(t, "")
	dir := t.TempDir()
	const password = "open sesame"
	for name, text := range map[string]string{"Device.java": javaDevice, "pass": password + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.Must("ca", "export", "--format", "pkcs12", "--password-file", filepath.Join(dir, "pass"), "--out", filepath.Join(dir, "roots.p12"))
	keytool := func(args ...string) (string, error) {
		return run(t, dir, "keytool", append([]string{"-J-XX:TieredStopAtLevel=1"}, args...)...)
	}
	for id, flags := range map[string][]string{
		"monitor-1": {"--p12", "--key", "p256"},
		"monitor-2": {"--p12-legacy", "--key", "rsa2048"},
	} {
		h.Must(append([]string{"device", "enroll", id, "--class", "patient-monitor", "--out", dir, "--p12-password-file", filepath.Join(dir, "pass")}, flags...)...)
		store := id + ".p12"
		out, err := keytool("-list", "-v", "-storetype", "PKCS12", "-keystore", store, "-storepass", password)
		if err != nil || strings.Count(out, "Entry type: PrivateKeyEntry") != 1 || !strings.Contains(out, "Certificate chain length: 3") || !strings.Contains(out, "spiffe://hospital.example/device/"+id) {
			t.Errorf("%s: %v %s", store, err, out)
		}
		// With the key, which a list does not touch.
		if out, err := keytool("-importkeystore", "-noprompt", "-srckeystore", store, "-srcstoretype", "PKCS12", "-srcstorepass", password,
			"-destkeystore", id+".jks", "-deststoretype", "JKS", "-deststorepass", "another"); err != nil || !strings.Contains(out, "1 entries successfully imported") {
			t.Errorf("%s into a keystore of Java's own: %v %s", store, err, out)
		}
	}
	java := func(stores ...string) string {
		t.Helper()
		out, err := run(t, dir, "java", append([]string{"-Xmx128m", "-XX:TieredStopAtLevel=1", "Device.java", "roots.p12", password, h.URL("/fhir/Observation"), observation}, stores...)...)
		if err != nil {
			t.Fatalf("java: %v %s", err, out)
		}
		return out
	}
	out := java("monitor-1.p12", password, "monitor-2.p12", password, "monitor-1.p12", "another", "monitor-2.p12", "another")
	if strings.Count(out, "status 201") != 2 || strings.Count(out, "password was incorrect") != 2 {
		t.Errorf("both, and with another password: %s", out)
	}
	h.recorded("transaction.decided", 2)
	h.Must("device", "revoke", "monitor-1", "--yes")
	if out := java("monitor-1.p12", password, "monitor-2.p12", password); !strings.Contains(out, "monitor-1.p12 refused") || !strings.Contains(out, "monitor-2.p12 status 201") {
		t.Errorf("one of them revoked: %s", out)
	}
}
