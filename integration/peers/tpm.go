package peers

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// A TPM is one in software (swtpm), at a socket.
type TPM struct {
	*Process
	Socket string

	t   testing.TB
	dir string
}

// StartTPM starts a TPM 2.0 that was never used before.
func StartTPM(t testing.TB) *TPM {
	t.Helper()
	// Not t.TempDir: the name of a socket is short.
	dir, err := os.MkdirTemp("", "tpm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tpm := &TPM{t: t, dir: dir, Socket: filepath.Join(dir, "socket")}
	tpm.Start()
	return tpm
}

// Start starts the TPM again after a Stop: a machine that was switched off and on.
func (m *TPM) Start() {
	m.t.Helper()
	m.Process = Start(m.t, m.dir, nil, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+m.dir,
		"--server", "type=unixio,path="+m.Socket, "--flags", "not-need-init,startup-clear")
	m.Ready(func() bool {
		conn, err := net.Dial("unix", m.Socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}
