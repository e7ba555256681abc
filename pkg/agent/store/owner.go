package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

const (
	queueFile = "queue"
	ownerFile = "device" // holds the id of the device whose messages are stored
)

// own makes sure that what is stored is of the device that the agent is now. A box
// that is moved from one device to another must not deliver the one's messages as
// the other's: they stay beside, for somebody to look at.
func own(dir, device string, log *slog.Logger) error {
	path := filepath.Join(dir, ownerFile)
	text, err := os.ReadFile(path)
	was := strings.TrimSpace(string(text))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case was == device:
		return nil
	default:
		if err := foreign(dir, was, device, log); err != nil {
			return err
		}
	}
	return durable.Replace(path, []byte(device+"\n"), 0o600)
}

func foreign(dir, was, device string, log *slog.Logger) error {
	queue := filepath.Join(dir, queueFile)
	aside := queue + ".of-" + filepath.Base(was)
	if _, err := os.Lstat(queue); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("what is stored is of %s and this is %s, and there is a %s already: move it away", was, device, aside)
	}
	log.Error("what is stored is of another device than this, and is not delivered", "stored", was, "device", device, "file", aside)
	return os.Rename(queue, aside)
}
