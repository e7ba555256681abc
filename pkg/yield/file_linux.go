package yield

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A File is an open file whose Sync occupies no processor.
//
// Fsync is a system call that blocks, for milliseconds. Linux does the same work
// on request by one that does not (io_submit(2) with IOCB_CMD_FSYNC, since 4.18),
// and says through an eventfd when it is done, which the runtime waits for as it
// waits for a connection. Where the kernel, or a seccomp filter, has no such thing,
// Sync is os.File's.
type File struct {
	*os.File
	aio  uintptr  // aio_context_t; 0 without
	done *os.File // the eventfd
	fd   int      // its number
}

// NewFile takes f over.
func NewFile(f *os.File) *File {
	n := &File{File: f}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return n
	}
	n.fd, n.done = fd, os.NewFile(uintptr(fd), "eventfd")
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&n.aio)), 0); e != 0 {
		n.aio = 0
		n.endWithout()
	}
	return n
}

// iocb is struct iocb of linux/aio_abi.h, as io_submit takes it.
type iocb struct {
	_         uint64 // aio_data
	_         uint64 // aio_key and aio_rw_flags, in the machine's order
	opcode    uint16
	_         int16 // aio_reqprio
	fd        uint32
	_         [4]uint64 // aio_buf, aio_nbytes, aio_offset, aio_reserved2
	flags     uint32
	resultsFD uint32
}

// ioEvent is struct io_event of the same.
type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

const (
	opFsync   = 2 // IOCB_CMD_FSYNC
	flagResFD = 1 // IOCB_FLAG_RESFD
)

// Sync is durable when it returns nil, as fsync(2) is. It must not be called by two
// at once, nor beside Close.
func (f *File) Sync() error {
	if f.aio == 0 {
		return f.File.Sync()
	}
	submitted, err := f.submit()
	if err != nil {
		return err
	}
	if !submitted {
		f.endWithout()
		return f.File.Sync()
	}
	// Whatever wakes it before the result is there, it waits for the result: the
	// kernel has the request.
	var b [8]byte
	for said := false; ; {
		if !said {
			if _, err := f.done.Read(b[:]); err != nil {
				return fmt.Errorf("wait for fsync of %s: %w", f.Name(), err)
			}
		}
		var ev ioEvent
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, f.aio, 0, 1, uintptr(unsafe.Pointer(&ev)), 0, 0)
		if done, err := f.result(n, e, &ev); done {
			return err
		}
		said = e == unix.EINTR // what was said once is not said again
	}
}

// result says what came of asking for the result: it is there, or it is waited for on.
func (f *File) result(n uintptr, e unix.Errno, ev *ioEvent) (done bool, err error) {
	switch {
	case e != 0 && e != unix.EINTR:
		return true, os.NewSyscallError("io_getevents", e)
	case n == 0 || e == unix.EINTR:
		return false, nil // e leaves all bits of n set
	case ev.res < 0:
		return true, &os.PathError{Op: "sync", Path: f.Name(), Err: unix.Errno(-ev.res)}
	}
	return true, nil
}

// submit hands the request to the kernel, and reports whether it took it.
func (f *File) submit() (taken bool, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	cb := iocb{opcode: opFsync, flags: flagResFD, resultsFD: uint32(f.fd)}
	err = raw.Control(func(fd uintptr) {
		cb.fd = uint32(fd)
		list := [1]*iocb{&cb}
		n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, f.aio, 1, uintptr(unsafe.Pointer(&list)))
		taken = e == 0 && n == 1
		runtime.KeepAlive(&cb)
	})
	return taken, err
}

// endWithout gives back what the background costs.
func (f *File) endWithout() {
	if f.aio != 0 {
		_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, f.aio, 0, 0)
		f.aio = 0
	}
	if f.done != nil {
		_ = f.done.Close()
		f.done = nil
	}
}

// Close closes the file.
func (f *File) Close() error {
	f.endWithout()
	return f.File.Close()
}
