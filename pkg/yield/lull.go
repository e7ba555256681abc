package yield

import "os"

// A Lull has the runtime look at the network between one piece of work and the
// next.
//
// While there is something to run, Go's scheduler does not ask what has arrived,
// but for once in 10 ms. Work that is passed from hand to hand is always
// something to run, and so is a goroutine that calls runtime.Gosched: a request of
// a connected device would lie in the kernel for so long, and the backend's answer
// to it again. So whoever has more to do goes on by way of the kernel: a byte is
// written into a pipe, and whoever waits for it is found like everything else that
// has arrived, behind what came before.
type Lull struct{ r, w *os.File }

// NewLull returns nil if there is no pipe to be had; then work goes on at once.
func NewLull() *Lull {
	r, w, err := os.Pipe()
	if err != nil {
		return nil
	}
	return &Lull{r, w}
}

// Ask has next called once by Run, and reports whether it will be. It may be
// called by many at once.
func (l *Lull) Ask() bool {
	_, err := l.w.Write([]byte{0})
	return err == nil
}

// Run calls next as often as it was asked to, until the lull is closed.
func (l *Lull) Run(next func()) {
	defer func() { _ = l.r.Close() }()
	var b [64]byte
	for {
		n, err := l.r.Read(b[:])
		for range n {
			next()
		}
		if err != nil {
			return
		}
	}
}

// Close lets Run do what it was asked to, and end. Nobody is asked to wait any
// more.
func (l *Lull) Close() { _ = l.w.Close() }
