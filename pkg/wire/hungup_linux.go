package wire

import "golang.org/x/sys/unix"

// hungUp asks the kernel for the state behind what is still to be read.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}
