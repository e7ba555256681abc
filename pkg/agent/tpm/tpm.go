package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

const (
	// maxAnswer bounds an answer of the TPM's (TPM 2.0 part 2: MAX_RESPONSE_SIZE).
	maxAnswer = 4096
	// headLen is what every answer begins with: tag, length and code.
	headLen = 10
	// socketTime bounds an answer at a socket. The kernel bounds those of a device.
	socketTime = time.Minute
)

// A TPM is one that is opened when it is needed.
type TPM struct {
	path string

	mu     sync.Mutex
	keep   bool // it is the kernel's, which looks after what is loaded
	conn   *link
	loaded *Key // in conn, by
	handle tpm2.NamedHandle
}

// New returns the TPM at a path, which is not looked at yet.
func New(path string) *TPM { return &TPM{path: path} }

// Close lets go of the TPM, until a key is used again.
func (t *TPM) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop()
}

// drop ends what is open; t.mu is held.
func (t *TPM) drop() {
	if t.conn == nil {
		return
	}
	if t.loaded != nil {
		// The kernel does so by itself; a TPM behind a socket has few places.
		_, _ = tpm2.FlushContext{FlushHandle: t.handle.Handle}.Execute(t.conn)
	}
	_ = t.conn.Close()
	t.conn, t.loaded = nil, nil
}

// open opens the TPM, if it is not; t.mu is held.
func (t *TPM) open() error {
	if t.conn != nil {
		return nil
	}
	st, err := os.Stat(t.path)
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeSocket != 0 {
		conn, err := net.DialTimeout("unix", t.path, socketTime)
		if err != nil {
			return err
		}
		t.conn = &link{conn}
		return nil
	}
	if st.Mode()&os.ModeCharDevice == 0 {
		return errors.New("this is no device, and no socket")
	}
	f, err := os.OpenFile(t.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	t.conn, t.keep = &link{f}, true
	return nil
}

// below does something with the storage key; t.mu is held.
func (t *TPM) below(do func(*tpm2.CreatePrimaryResponse) error) error {
	if err := t.open(); err != nil {
		return err
	}
	parent, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(storage)}.Execute(t.conn)
	if err != nil {
		t.drop()
		return err
	}
	err = do(parent)
	_, ferr := tpm2.FlushContext{FlushHandle: parent.ObjectHandle}.Execute(t.conn)
	if !t.keep && t.loaded == nil {
		t.drop()
	}
	return errors.Join(err, ferr)
}

// with does something with a key that is loaded; t.mu is held. What fails with a
// key that was loaded before is done once more with one that is loaded now: the
// TPM may have been reset since.
func (t *TPM) with(k *Key, do func(tpm2.NamedHandle) error) error {
	if t.loaded == k && t.conn != nil {
		if err := do(t.handle); err == nil {
			return nil
		}
	}
	t.drop()
	err := t.below(func(parent *tpm2.CreatePrimaryResponse) error {
		got, err := tpm2.Load{ParentHandle: owned(parent.ObjectHandle, parent.Name), InPrivate: k.wrapped, InPublic: k.outside}.Execute(t.conn)
		if err != nil {
			return err
		}
		t.loaded, t.handle = k, tpm2.NamedHandle{Handle: got.ObjectHandle, Name: got.Name}
		return nil
	})
	if err == nil {
		err = do(t.handle)
	}
	if err != nil || !t.keep {
		t.drop()
	}
	return err
}

// explain says what to do about an error.
func (t *TPM) explain(what string, err error) error {
	why := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = ": this machine has no TPM 2.0 that Linux knows of, or it is switched off in the firmware; key: file needs none"
	case errors.Is(err, fs.ErrPermission):
		why = ": this account may not use it; as a rule the group tss may"
	case errors.Is(err, tpm2.TPMRCIntegrity):
		why = ": the key is of another TPM, or this one was cleared since; anteroom-agent enrol --force makes a new one"
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		why = ": the TPM's owner has set a password, and the agent can not make keys below it"
	case errors.Is(err, tpm2.TPMRCInitialize):
		why = ": nobody has started the TPM (TPM2_Startup), which the firmware does"
	}
	return fmt.Errorf("tpm %s: %s: %w%s", t.path, what, err, why)
}

// A link is what commands are sent on, one after the other.
type link struct{ io.ReadWriteCloser }

// Send implements go-tpm's transport.
func (l *link) Send(command []byte) ([]byte, error) {
	if c, ok := l.ReadWriteCloser.(net.Conn); ok {
		_ = c.SetDeadline(time.Now().Add(socketTime))
	}
	if _, err := l.Write(command); err != nil {
		return nil, err
	}
	answer := make([]byte, maxAnswer)
	n, err := io.ReadAtLeast(l, answer, headLen)
	if err != nil {
		return nil, err
	}
	want := int(binary.BigEndian.Uint32(answer[2:6]))
	if want < n || want > maxAnswer {
		return nil, errors.New("the answer has another length than it says")
	}
	if _, err := io.ReadFull(l, answer[n:want]); err != nil {
		return nil, err
	}
	return answer[:want], nil
}
