package fleet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// A threadConn is a TCP connection whose calls block the thread. Go's own wait
// in the network poller, where a timer may be a millisecond late and a goroutine
// that became ready waits for its turn: who measures microseconds asks the kernel
// instead, and is woken by it. One goroutine uses it.
type threadConn struct {
	fd            int
	local, remote netip.AddrPort
}

// threadDial connects device i to addr, which is numeric.
func threadDial(addr string, i int) (_ *threadConn, err error) {
	remote, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if !remote.Addr().Is4() {
		return nil, fmt.Errorf("%s is not an IPv4 address", addr)
	}
	src := source(i)
	local := netip.AddrPortFrom(netip.AddrFrom4([4]byte(src.IP.To4())), 0)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	c := &threadConn{fd, local, remote}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	limit := syscall.NsecToTimeval(int64(patience))
	for _, set := range []func() error{
		func() error { return syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, bindAddressNoPort, 1) },
		func() error { return syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1) },
		func() error { return syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit) },
		func() error { return syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit) },
		func() error { return syscall.Bind(fd, &syscall.SockaddrInet4{Addr: local.Addr().As4()}) },
	} {
		if err := set(); err != nil {
			return nil, os.NewSyscallError("set up a socket", err)
		}
	}
	return c, os.NewSyscallError("connect", syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(remote.Port()), Addr: remote.Addr().As4()}))
}

// Read implements [net.Conn].
func (c *threadConn) Read(p []byte) (int, error) {
	for {
		n, err := syscall.Read(c.fd, p)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(p) > 0:
			return 0, errTruncated
		default:
			return n, nil
		}
	}
}

// Write implements [net.Conn].
func (c *threadConn) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n, err := syscall.Write(c.fd, p[done:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return done, os.NewSyscallError("write", err)
		}
		done += n
	}
	return done, nil
}

// Close implements [net.Conn].
func (c *threadConn) Close() error { return os.NewSyscallError("close", syscall.Close(c.fd)) }

// LocalAddr implements [net.Conn]; the port is not known.
func (c *threadConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements [net.Conn].
func (c *threadConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline implements [net.Conn]; each call has the same limit, patience.
func (c *threadConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements [net.Conn].
func (c *threadConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements [net.Conn].
func (c *threadConn) SetWriteDeadline(time.Time) error { return nil }

// setTimerSlack is PR_SET_TIMERSLACK of prctl(2).
const setTimerSlack = 29

// sleepWell lets the calling thread's sleeps end when they should and not, as
// the kernel likes it, 50 µs later. It fails where that is not allowed; sleeps
// then are what they are.
func sleepWell() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0)
}
