package ca

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.step.sm/crypto/pemutil"
)

// Tests that need a process of their own run this test binary again, with this
// variable set to what it shall do.
const (
	childRole = "ANTEROOM_CA_TEST_CHILD"
	childDir  = "ANTEROOM_CA_TEST_DIR"
	childStep = "ANTEROOM_CA_TEST_STEP" // of a rotation, to be killed at
)

func child(role string) {
	ctx, dir := context.Background(), os.Getenv(childDir)
	fail := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	if role == "init" {
		_, err := Init(ctx, InitConfig{
			Dir: filepath.Join(dir, "ca"), RootKeyPath: filepath.Join(dir, "offline", "root.key"),
			TrustDomain: testDomain, Organisation: testOrg, Passphrase: testPassphrase,
		})
		fail(err)
		return
	}
	var cfg Config
	if step := os.Getenv(childStep); role == "rotate" {
		cfg.fault = func(at string) {
			fmt.Println(at)
			if at == step {
				fail(syscall.Kill(os.Getpid(), syscall.SIGKILL))
				select {}
			}
		}
	}
	a, err := Open(ctx, Config{Dir: dir, TrustDomain: testDomain, Passphrase: testPassphrase, fault: cfg.fault})
	fail(err)
	_, csr, err := NewKeyAndCSR(P256, "pump-1")
	fail(err)
	switch role {
	case "issue": // until killed; says what was acknowledged
		for i := 0; ; i++ {
			issued, err := a.Issue(ctx, Request{Profile: Device, ID: "pump-1", CSR: csr, TTL: time.Hour})
			fail(err)
			serial := issued.Leaf.SerialNumber.String()
			fmt.Println("issued", serial)
			if i%2 == 0 {
				fail(a.Revoke(ctx, serial, "superseded"))
				fmt.Println("revoked", serial)
			}
		}
	case "rotate": // to the step where it kills itself
		next, err := a.PrepareRotation(ctx, testPassphrase)
		fail(err)
		key, err := ReadCAKey(filepath.Join(dir, rootKeyFile), testPassphrase)
		fail(err)
		cert, err := SignIntermediate(a.Root(), key, next, false, time.Now())
		fail(err)
		fail(a.Rotate(ctx, cert, testPassphrase, nil))
		fail(a.Close())
	case "quiet": // everything once, saying nothing
		issued, err := a.Issue(ctx, Request{Profile: Device, ID: "pump-1", CSR: csr, TTL: 100 * 365 * 24 * time.Hour})
		fail(err)
		fail(a.Revoke(ctx, issued.Leaf.SerialNumber.String(), "superseded"))
		_, err = a.IsRevoked(issued.Leaf.SerialNumber.String())
		fail(err)
		if _, err := a.Issue(ctx, Request{Profile: Device, ID: "../x", CSR: csr, TTL: time.Hour}); err == nil {
			fail(errors.New("issued"))
		}
		fail(a.Close())
	case "hold": // the database, until told to stop
		fmt.Println("held")
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		fail(a.Close())
	}
}

func childCommand(t *testing.T, role, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childRole+"="+role, childDir+"="+dir)
	return cmd
}

func TestKillLosesNothingAcknowledged(t *testing.T) {
	dir := newCA(t)
	issued, revoked := map[string]bool{}, map[string]bool{}
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		cmd := childCommand(t, "issue", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, stop := bufio.NewScanner(out), 10+rand.IntN(40)
		for n := 0; lines.Scan(); n++ {
			what, serial, _ := strings.Cut(lines.Text(), " ")
			switch what {
			case "issued":
				issued[serial] = true
			case "revoked":
				revoked[serial] = true
			default:
				t.Fatal(lines.Text())
			}
			if n == stop {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
	}
	a := openCA(t, dir)
	for serial := range issued {
		if _, err := a.db.GetCertificate(serial); err != nil {
			t.Errorf("an issued certificate is lost: %v", err)
		}
	}
	for serial := range revoked {
		if is, err := a.IsRevoked(serial); err != nil || !is {
			t.Errorf("the revocation of %s is lost: %v", serial, err)
		}
	}
	t.Logf("%d certificates, %d revocations", len(issued), len(revoked))
	if len(revoked) < rounds*3 {
		t.Errorf("only %d revocations were tried", len(revoked))
	}
}

func TestKilledInitIsNeverMistakenForAGoodOne(t *testing.T) {
	t.Parallel() // it mostly waits
	whole, absent, orphans := 0, 0, 0
	rounds := 6
	if testing.Short() {
		rounds = 3
	}
	for i := range rounds {
		dir := t.TempDir()
		cmd := childCommand(t, "init", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			// While it writes: from when its directory appears on.
			waitForFile(t, filepath.Join(dir, ".ca.init-*"), filepath.Join(dir, "ca"))
			time.Sleep(time.Duration(rand.Int64N(int64(8 * time.Millisecond))))
			_ = cmd.Process.Kill()
		}
		// Else at any time, or after it has ended.
		timer := time.AfterFunc(time.Duration(i)*600*time.Millisecond/time.Duration(rounds), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		rootKey := filepath.Join(dir, "offline", "root.key")
		if _, err := os.Stat(filepath.Join(dir, "ca")); err == nil {
			whole++
			openCA(t, filepath.Join(dir, "ca"))
			if _, err := pemutil.Read(rootKey, pemutil.WithPassword(testPassphrase)); err != nil {
				t.Error("a CA without its root key:", err)
			}
			continue
		}
		absent++
		_, err := Init(t.Context(), InitConfig{
			Dir: filepath.Join(dir, "ca"), RootKeyPath: rootKey,
			TrustDomain: testDomain, Organisation: testOrg, Passphrase: testPassphrase,
		})
		if _, statErr := os.Stat(filepath.Join(dir, "offline")); err != nil && statErr == nil {
			orphans++ // refused, and the error says which file
			if !strings.Contains(err.Error(), rootKey) {
				t.Error(err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("killed before: %d (with a root key left: %d), after: %d", absent, orphans, whole)
}

// waitForFile waits until one of the patterns matches a file.
func waitForFile(t *testing.T, patterns ...string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		for _, p := range patterns {
			if found, err := filepath.Glob(p); err != nil {
				t.Fatal(err)
			} else if len(found) > 0 {
				return
			}
		}
	}
	t.Fatalf("none of %v appeared", patterns)
}

func TestNothingIsPrinted(t *testing.T) {
	out, err := childCommand(t, "quiet", newCA(t)).CombinedOutput()
	if err != nil || len(out) != 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// TestFIPSOnly: nothing on the way of a certificate needs an algorithm that
// FIPS 140-3 does not approve; with fips140=only using one is a panic.
func TestFIPSOnly(t *testing.T) {
	for _, role := range []string{"init", "quiet"} {
		dir := t.TempDir()
		if role == "quiet" {
			dir = newCA(t)
		}
		cmd := childCommand(t, role, dir)
		cmd.Env = append(cmd.Env, "GODEBUG=fips140=only")
		if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 {
			t.Errorf("%s: %v: %s", role, err, out)
		}
	}
}

func TestOneProcessHoldsTheCA(t *testing.T) {
	t.Parallel() // it mostly waits
	if testing.Short() {
		t.Skip("waits for a lock, which takes 5 s")
	}
	dir := newCA(t)
	cmd := childCommand(t, "hold", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if lines := bufio.NewScanner(out); !lines.Scan() || lines.Text() != "held" {
		t.Fatal(lines.Text())
	}
	_, err = Open(t.Context(), Config{Dir: dir, TrustDomain: testDomain, Passphrase: testPassphrase})
	if err == nil || !strings.Contains(err.Error(), "a running gateway holds it") {
		t.Error(err)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	openCA(t, dir)
}
