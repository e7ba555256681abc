package audit

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// sink is a disk that takes everything and keeps nothing.
type sink struct{}

func (sink) open(string) (file, error)              { return sink{}, nil }
func (sink) free() (uint64, error)                  { return 1 << 40, nil }
func (sink) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (sink) Truncate(int64) error                   { return nil }
func (sink) Sync() error                            { return nil }
func (sink) Close() error                           { return nil }

func benchConfig(dir string) Config {
	return Config{Dir: dir, Origin: testOrigin, Audit: config.Audit{MinFree: 1, Buffer: 64 << 20}}
}

// Encoding alone: what Append does outside its lock.
func BenchmarkAppendRecord(b *testing.B) {
	r, now := sample(), time.Now()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = appendRecord(buf[:0], r, now, true)
	}
	b.ReportMetric(float64(len(buf)), "B/record")
}

// Append as a request sees it: the writer's share is kept away by taking what
// is pending without writing it.
func BenchmarkAppend(b *testing.B) {
	l := appendOnly(b)
	r := sample()
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(ctx, r); err != nil {
			b.Fatal(err)
		}
		l.discard()
	}
}

func BenchmarkAppendParallel(b *testing.B) {
	l := appendOnly(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := sample()
		ctx := context.Background()
		for pb.Next() {
			if err := l.Append(ctx, r); err != nil {
				b.Error(err)
				return
			}
			l.discard()
		}
	})
}

// appendOnly returns a log that has no writer.
func appendOnly(b *testing.B) *Log {
	b.Helper()
	l := &Log{cfg: benchConfig("x"), limit: 8 << 20, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
	if err := l.cfg.fill(); err != nil {
		b.Fatal(err)
	}
	l.scratch.New = func() any { b := make([]byte, 0, 2048); return &b }
	return l
}

// discard empties the buffer when it is nearly full.
func (l *Log) discard() {
	l.mu.Lock()
	if len(l.pending) > 4<<20 {
		l.pending = l.pending[:0]
	}
	l.mu.Unlock()
}

// Everything: append, encode, pseudonym, hash, write, sync, seal, log. The CPU
// time of the whole process is what a record costs on any core.
func BenchmarkEndToEnd(b *testing.B) {
	for _, disk := range []string{"disk", "sink"} {
		b.Run(disk, func(b *testing.B) {
			dir := b.TempDir()
			cfg := benchConfig(dir)
			if disk == "sink" {
				cfg.disk = sink{}
			}
			l := must(b, cfg)
			r := sample()
			ctx := b.Context()
			b.ReportAllocs()
			before := cpu(b)
			for b.Loop() {
				if err := l.Append(ctx, r); err != nil {
					b.Fatal(err)
				}
			}
			if err := l.Flush(ctx); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/record")
			st := l.Status()
			b.ReportMetric(float64(st.SegmentSize)/float64(max(st.Flushed, 1)), "B/line")
			mustClose(b, l)
		})
	}
}

func cpu(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkLine(b *testing.B) {
	r, now := sample(), time.Now()
	t := appendRecord(nil, r, now, true)
	e := newEncoder("0123456789abcdef", make([]byte, 32))
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = e.line(buf[:0], 123456, t)
	}
	b.ReportMetric(float64(len(buf)), "B/line")
}

func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	l := must(b, benchConfig(dir))
	r := sample()
	const records = 200_000
	for i := range records {
		r.Decision.ID = fmt.Sprint("d", i)
		if err := l.Append(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
	mustClose(b, l)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(b.Context(), dir, VerifyOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*records/b.Elapsed().Seconds(), "records/s")
}
