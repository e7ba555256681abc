package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/integration/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func made(t *testing.T, m *TPM) (*Key, *pem.Block) {
	t.Helper()
	k, err := m.New()
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || len(rest) > 0 || block.Type != BlockType {
		t.Fatalf("the key rests as %s", text)
	}
	return k, block
}

func signs(t *testing.T, k *Key) {
	t.Helper()
	digest := sha256.Sum256([]byte("hello"))
	sig, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Errorf("a signature: %v", err)
	}
}

// TestAKeySignsAndOutlivesItsTPMsRestart, and no other TPM has it.
func TestAKeySignsAndOutlivesItsTPMsRestart(t *testing.T) {
	peers.Need(t, "swtpm")
	chip := peers.StartTPM(t)
	m := New(chip.Socket)
	k, block := made(t, m)
	other, _ := made(t, m)
	// More often than a TPM has places for keys, by two in turn.
	for range 4 {
		signs(t, k)
		signs(t, other)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { signs(t, k) })
	}
	wg.Wait()
	chip.Stop()
	digest := sha256.Sum256(nil)
	if _, err := k.Sign(nil, digest[:], crypto.SHA256); err == nil {
		t.Error("without its TPM it signs")
	}
	chip.Start()
	signs(t, k)
	again, err := New(chip.Socket).Open(block)
	if err != nil || !again.public.Equal(k.public) {
		t.Fatalf("the key as it rests: %v", err)
	}
	signs(t, again)
	if _, err := k.Sign(nil, make([]byte, 48), crypto.SHA384); err == nil {
		t.Error("it signs what it was not made for")
	}

	stranger := peers.StartTPM(t)
	if _, err := New(stranger.Socket).Open(block); err == nil || !strings.Contains(err.Error(), "of another TPM") {
		t.Errorf("another TPM has the key: %v", err)
	}
}

// TestTheLastKeyStaysLoadedWhereTheKernelLooksAfterIt, and is loaded again when the
// TPM was reset meanwhile.
func TestTheLastKeyStaysLoadedWhereTheKernelLooksAfterIt(t *testing.T) {
	peers.Need(t, "swtpm")
	chip := peers.StartTPM(t)
	m := New(chip.Socket)
	defer m.Close()
	m.keep = true
	k, _ := made(t, m)
	signs(t, k)
	if m.loaded != k || m.conn == nil {
		t.Fatal("the key is not kept")
	}
	handle := m.handle.Handle
	signs(t, k)
	if m.handle.Handle != handle {
		t.Error("the key was loaded again for nothing")
	}
	chip.Stop()
	chip.Start()
	signs(t, k)
}

// TestWhatIsWrongWithATPMIsSaid.
func TestWhatIsWrongWithATPMIsSaid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nothing")
	if _, err := New(file).New(); err == nil || !strings.Contains(err.Error(), "tpm "+file) || !strings.Contains(err.Error(), "this machine has no TPM 2.0") {
		t.Errorf("no device: %v", err)
	}
	if _, err := New(t.TempDir()).New(); err == nil || !strings.Contains(err.Error(), "no device") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := New("/dev/null").New(); err == nil {
		t.Error("/dev/null is a TPM")
	}
	for what, answer := range map[string][]byte{
		"a short one": {0x80, 1}, "a length below what came": {0x80, 1, 0, 0, 0, 4, 0, 0, 0, 0}, "a long one": {0x80, 1, 0, 1, 0, 0, 0, 0, 0, 0},
		"an error": {0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0},
	} {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Read(make([]byte, maxAnswer))
			_, _ = theirs.Write(answer)
			_ = theirs.Close()
		}()
		m := &TPM{path: "a test", conn: &link{ours}}
		if _, err := m.New(); err == nil {
			t.Errorf("%s is an answer", what)
		}
		m.Close()
	}
}

// TestWhatIsNoKeyOfATPMIsRefused before a TPM is asked.
func TestWhatIsNoKeyOfATPMIsRefused(t *testing.T) {
	for what, der := range map[string]string{
		"nothing":               "",
		"a sequence of nothing": "\x30\x00",
		"another type of key":   "\x30\x1a\x06\x06\x67\x81\x05\x0a\x01\x04\xa0\x03\x01\x01\xff\x02\x04\x40\x00\x00\x01\x04\x02\x00\x00\x04\x01\x00",
		"an empty public half":  "\x30\x1b\x06\x06\x67\x81\x05\x0a\x01\x03\xa0\x03\x01\x01\xff\x02\x04\x40\x00\x00\x01\x04\x02\x00\x00\x04\x02\x00\x00",
	} {
		if _, err := New("/nowhere").Open(&pem.Block{Type: BlockType, Bytes: []byte(der)}); err == nil || strings.Contains(err.Error(), "/nowhere") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
