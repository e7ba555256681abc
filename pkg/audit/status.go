package audit

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"
)

// state is what the writer lets others know.
type state struct {
	flushed, sealed, blocks uint64
	segment                 string
	size                    int64
}

// Status is how the log stands.
type Status struct {
	Healthy     bool       `json:"healthy"`
	Error       string     `json:"error,omitempty"` // why records are not taken, or blocks not logged
	Unavailable *time.Time `json:"unavailable_since,omitempty"`
	// Reserve is how many bytes of disk there are for reports (on_failure: pass) while
	// nothing else is taken.
	Reserve   int64  `json:"reserve,omitempty"`
	Run       string `json:"run"`
	PublicKey string `json:"public_key"`

	Seq         uint64      `json:"seq"`          // records accepted so far, all runs together
	Flushed     uint64      `json:"flushed"`      // last record on disk
	Sealed      uint64      `json:"sealed"`       // last record in a sealed block
	Blocks      uint64      `json:"blocks"`       // sealed
	Logged      uint64      `json:"logged"`       // blocks in the transparency log
	Checkpoint  *Checkpoint `json:"checkpoint"`   // the last published; nil if none can be read
	Buffered    int64       `json:"buffered"`     // bytes accepted and not on disk
	Buffer      int64       `json:"buffer"`       // bytes there is room for
	Segment     string      `json:"segment"`      // the file being written; "" between two
	SegmentSize int64       `json:"segment_size"` // bytes
}

// Status returns how the log stands now. It reads the checkpoint's file.
func (l *Log) Status() Status {
	l.mu.Lock()
	s := Status{
		Healthy: l.down == nil && !l.closed, Run: l.run, PublicKey: l.public,
		Seq: l.state.flushed + l.accepted - l.durable, Flushed: l.state.flushed, Sealed: l.state.sealed, Blocks: l.state.blocks,
		Buffered: int64(len(l.pending) + l.inflight), Buffer: int64(l.limit),
		Segment: l.state.segment, SegmentSize: l.state.size,
	}
	if err := l.refusal(); err != nil {
		s.Error = err.Error()
	}
	if l.down != nil {
		since := l.down.since
		s.Unavailable = &since
		if !l.down.stuck && !l.closed {
			s.Reserve = max(0, l.down.room-l.down.late)
		}
	}
	l.mu.Unlock()
	s.Logged = l.tlog.logged()
	if err := l.tlog.fault(); err != nil {
		s.Healthy = false
		if s.Error == "" {
			s.Error = "the transparency log does not take blocks: " + err.Error()
		}
	}
	if v, err := note.NewVerifier(l.public); err == nil {
		if raw, err := os.ReadFile(filepath.Join(l.cfg.Dir, logName, layout.CheckpointPath)); err == nil {
			s.Checkpoint, _ = openCheckpoint(raw, v)
		}
	}
	return s
}

// closing returns the context that bounds the log's end.
func (l *Log) closing() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), l.cfg.patience)
}
