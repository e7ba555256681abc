package edge

import "os"

// A lull has the runtime look at the network between one turn and the next.
//
// While there is something to run, Go's scheduler does not ask what has arrived,
// but for once in 10 ms. Turns that are passed from hand to hand are always
// something to run, and a request of a connected device would lie in the kernel
// for so long, and the backend's answer to it again. So a turn is passed on by
// way of the kernel: a byte is written into a pipe, and whoever waits for it is
// found like everything else that has arrived, behind what came before.
type lull struct{ r, w *os.File }

// newLull returns nil if there is no pipe to be had; then turns are passed on at
// once.
func newLull() *lull {
	r, w, err := os.Pipe()
	if err != nil {
		return nil
	}
	return &lull{r, w}
}

// ask has pass called once by run, and reports whether it will be.
func (l *lull) ask() bool {
	_, err := l.w.Write([]byte{0})
	return err == nil
}

// run calls pass as often as it was asked to, until the lull is closed.
func (l *lull) run(pass func()) {
	var b [64]byte
	for {
		n, err := l.r.Read(b[:])
		for range n {
			pass()
		}
		if err != nil {
			return
		}
	}
}

// close lets run pass on what it was asked to, and end.
func (l *lull) close() {
	_ = l.w.Close()
}
