package yield

import "runtime"

// A Pause is a [Lull] for one who goes on with the work itself, in the same
// goroutine.
type Pause struct {
	lull *Lull         // nil if there is no pipe to be had; then others run, and that is all
	on   chan struct{} // it is over
	done chan struct{}
}

// NewPause returns one that its user closes.
func NewPause() *Pause {
	p := &Pause{lull: NewLull(), on: make(chan struct{}), done: make(chan struct{})}
	if p.lull != nil {
		go func() {
			defer close(p.done)
			p.lull.Run(func() { p.on <- struct{}{} })
		}()
	}
	return p
}

// Take lets others run, those first who wait for the network. It is for one goroutine
// at a time.
func (p *Pause) Take() {
	if p.lull == nil || !p.lull.Ask() {
		runtime.Gosched()
		return
	}
	<-p.on
}

// Close frees what it holds. It must not be taken any more.
func (p *Pause) Close() {
	if p.lull != nil {
		p.lull.Close()
		<-p.done
	}
}
