package policy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"
)

// followPoll is how often Follow looks. Reading a set takes a millisecond, and
// an author waits for nothing as long as for an editor's save.
const followPoll = 250 * time.Millisecond

// Follow calls f at once and then whenever a file of the set in dir has changed,
// tests included, until ctx ends; that is no error. It is for an author's
// terminal: the gateway has [Engine.Watch].
func Follow(ctx context.Context, dir string, opt Options, f func(context.Context)) error {
	opt = opt.withDefaults()
	tick := time.NewTicker(followPoll)
	defer tick.Stop()
	for last := ""; ; {
		if now := look(dir, opt); now != last {
			last = now
			f(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look returns what is in dir, or why it cannot be read, as something to compare.
func look(dir string, opt Options) string {
	t, err := readTree(dir, opt)
	if err != nil {
		return err.Error()
	}
	h := sha256.New()
	for i := range t.files {
		fmt.Fprintf(h, "%q %d\n", t.files[i].name, len(t.files[i].body))
		h.Write(t.files[i].body)
	}
	return string(h.Sum(nil))
}
