package fleet

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-iomt/anteroom/integration/bench/origin"
)

const (
	// slice is how much of a body is written or read at a time.
	slice = 64 << 10
	// warmBytes is the size of the transfer that is not measured.
	warmBytes = 8 << 20
	// slowest is the fewest bytes in a second that a transfer is waited for.
	slowest = 4 << 20
)

// Size stands in a plan's path for the size of the body that is asked for.
const Size = "{size}"

// transfer sends large bodies, or receives them, each over a connection of its
// own, all at once.
func (r *run) transfer(ctx context.Context) error {
	if err := r.once(ctx, min(warmBytes, r.Bytes)); err != nil {
		return err
	}
	if ok, err := r.ready(); !ok {
		return err
	}
	began := time.Now()
	var wg sync.WaitGroup
	for range r.Connections {
		wg.Go(func() {
			if err := r.once(ctx, r.Bytes); err != nil {
				r.failed(err)
			} else {
				r.answered(1, 0)
			}
		})
	}
	wg.Wait()
	return r.done(began)
}

// once makes a transfer of size bytes over a connection of its own. What it
// leaves in the report is that of the last one.
func (r *run) once(ctx context.Context, size int64) error {
	conn, err := r.tls.handshake(ctx, 0, r.tls.as(0))
	if err != nil {
		return err
	}
	defer conn.Close()
	patient := time.Now().Add(patience + time.Duration(size/slowest)*time.Second)
	if err := conn.SetDeadline(patient); err != nil {
		return err
	}
	began := time.Now()
	var first time.Time
	if r.Method == "POST" {
		first, err = r.upload(conn, size)
	} else {
		first, err = r.download(conn, size)
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Bytes, r.report.FirstByte = size, first.Sub(began)
	return nil
}

// upload sends a body of size bytes and returns when its first byte arrived. The
// backend must have had all of it.
func (r *run) upload(conn *tls.Conn, size int64) (first time.Time, err error) {
	if _, err := conn.Write(head(&r.Plan, size)); err != nil {
		return first, err
	}
	buf := noise()
	for left := size; left > 0; {
		n, err := conn.Write(buf[:min(left, int64(len(buf)))])
		if err != nil {
			return first, err
		}
		left -= int64(n)
	}
	in := bufio.NewReaderSize(conn, readBuffer)
	status, length, err := readHead(in)
	if err != nil {
		return first, err
	}
	if status != 200 {
		return first, fmt.Errorf("answered with status %d", status)
	}
	var got origin.Receipt
	if err := json.NewDecoder(io.LimitReader(in, length)).Decode(&got); err != nil {
		return first, fmt.Errorf("the backend's receipt: %w", err)
	}
	if got.Bytes != size {
		return first, fmt.Errorf("the backend got %d bytes of %d", got.Bytes, size)
	}
	return got.First, nil
}

// download receives a body of size bytes and returns when its first byte was
// here.
func (r *run) download(conn *tls.Conn, size int64) (first time.Time, err error) {
	ask := r.Plan
	ask.Path = strings.ReplaceAll(ask.Path, Size, strconv.FormatInt(size, 10))
	if _, err := conn.Write(head(&ask, 0)); err != nil {
		return first, err
	}
	in := bufio.NewReaderSize(conn, readBuffer)
	status, length, err := readHead(in)
	if err != nil {
		return first, err
	}
	if status != 200 {
		return first, fmt.Errorf("answered with status %d", status)
	}
	if length != size {
		return first, fmt.Errorf("%d bytes are announced, not %d", length, size)
	}
	if _, err := in.Peek(1); err != nil {
		return first, err
	}
	first = time.Now()
	got, err := io.CopyBuffer(onlyWriter{io.Discard}, io.LimitReader(in, size), make([]byte, slice))
	if err == nil && got != size {
		err = fmt.Errorf("%w after %d bytes", errTruncated, got)
	}
	return first, err
}

// onlyWriter hides that a writer could choose its own buffer.
type onlyWriter struct{ io.Writer }

// noise returns bytes that are no text, always the same.
func noise() []byte {
	b := make([]byte, slice)
	x := uint32(2463534242)
	for i := range b {
		// Marsaglia's xorshift: bytes that do not compress.
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}
