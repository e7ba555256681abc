package identity

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/anteroom-iomt/anteroom/pkg/durable"
)

// maxState bounds what is read of a file of ours.
const maxState = 256 << 10

// writeFile puts a file there whole, readable by its owner only, or leaves what
// was there.
func writeFile(path string, data []byte) error {
	if err := durable.Replace(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// readFile reads a file of ours. One that holds a key and that others may read is
// refused: the key is none any more.
func readFile(path string, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if secret && st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others than its owner (mode %04o): whoever could read it has the device's key, so enrol anew", path, st.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxState {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxState)
	}
	return data, nil
}
