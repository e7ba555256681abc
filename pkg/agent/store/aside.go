package store

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/anteroom-iomt/anteroom/pkg/agent/queue"
	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// mostAside is how many rejected messages are kept. Somebody has to look.
const mostAside = 1000

// aside keeps a message that can not be delivered, and takes it off the store. A
// message that can not be kept stays where it is, and holds the others up.
func (p *Port[M]) aside(it *queue.Item) step {
	path, err := keepAside(filepath.Join(p.cfg.Dir, "aside"), fmt.Sprint(it.Seq, p.protocol.Extension()), it.Body)
	if err == nil {
		err = p.queue.Done(it.Seq)
	}
	if err != nil {
		p.Log.Error("a rejected message can not be set aside", "message", it.Seq, "error", err)
		return paused
	}
	p.Count(func(c *queue.Counts) { c.SetAside++ })
	p.Log.Error("a message is set aside: look at it, and remove it", "message", it.Seq, "file", path)
	return next
}

func keepAside(dir, name string, body []byte) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if len(there) >= mostAside {
		return "", fmt.Errorf("%s holds %d messages, and somebody has to look at them", dir, len(there))
	}
	path := filepath.Join(dir, name)
	return path, durable.Replace(path, body, 0o600)
}
