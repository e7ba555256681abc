package wire

import (
	"net"
	"syscall"
)

// Await waits until something arrived over tcp, which is left there: until then
// a connection takes no buffer at all. The error is that of the connection, such
// as its deadline; a peer that closed has arrived too, and is found by reading.
func Await(tcp *net.TCPConn) error {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var one [1]byte
	return raw.Read(func(fd uintptr) bool {
		for {
			_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
			if err != syscall.EINTR {
				return err != syscall.EAGAIN
			}
		}
	})
}

// Gone reports whether the peer closed the connection or reset it, though what it
// sent before may not have been read. It does not wait.
func Gone(tcp *net.TCPConn) bool {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) { gone = hungUp(int(fd)) })
	return gone || err != nil
}
