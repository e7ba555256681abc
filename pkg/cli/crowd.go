package cli

import (
	"context"
	"os"
	"runtime"
	"time"
)

// crowd is how many connections that wait for their handshakes are one: more than a
// processor serves in a quarter of a second. With less than thinned it is over.
const (
	crowd   = 256
	thinned = crowd / 4
)

// mindCrowd has Go run a second thread where it has one processor only, while a crowd
// waits for its handshakes, of which there are so many, until ctx ends. On one thread a
// piece of a handshake, or 10 ms of the collector's work, has to be over before a
// connected device's request is looked at. With two the kernel shares the processor
// between them, and it prefers the one that slept, which waits for the network. The
// price is switching between the two (docs/adr/0011-turns.md, 8).
//
// Who set GOMAXPROCS in the environment chose.
func mindCrowd(ctx context.Context, waiting func() int) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	crowded := false
	defer func() {
		if crowded {
			runtime.SetDefaultGOMAXPROCS()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch n := waiting(); {
		case !crowded && n >= crowd && runtime.GOMAXPROCS(0) == 1:
			runtime.GOMAXPROCS(2)
			crowded = true
		case crowded && n < thinned:
			runtime.SetDefaultGOMAXPROCS()
			crowded = false
		}
	}
}
