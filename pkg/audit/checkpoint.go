package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// A Checkpoint is the signed statement of how many blocks the log holds and
// what they are (C2SP tlog-checkpoint). Kept elsewhere, it proves later that
// nothing before it changed or went away.
type Checkpoint struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"` // blocks
	Root   string `json:"root"` // RFC 6962 tree over the seals, base64

	hash digest
}

// maxCheckpoint bounds what is parsed: room for a hundred witnesses' signatures.
const maxCheckpoint = 1 << 16

// openCheckpoint checks the signature of a checkpoint and reads it.
func openCheckpoint(raw []byte, v note.Verifier) (*Checkpoint, error) {
	if len(raw) > maxCheckpoint {
		return nil, errors.New("not a checkpoint: too long")
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		return nil, fmt.Errorf("not a checkpoint signed by %s: %w", v.Name(), err)
	}
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) < 4 {
		return nil, errors.New("not a checkpoint: too few lines")
	}
	if lines[0] != v.Name() {
		return nil, fmt.Errorf("checkpoint of another log: %q", lines[0])
	}
	c := &Checkpoint{Origin: lines[0], Root: lines[2]}
	if c.Size, err = strconv.ParseUint(lines[1], 10, 64); err != nil || strconv.FormatUint(c.Size, 10) != lines[1] {
		return nil, errors.New("not a checkpoint: malformed size")
	}
	hash, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(hash) != len(c.hash) {
		return nil, errors.New("not a checkpoint: malformed root")
	}
	copy(c.hash[:], hash)
	return c, nil
}
