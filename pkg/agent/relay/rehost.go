package relay

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
)

const (
	// maxHead bounds a request's head. The gateway's own limit is 32 KiB as it is
	// delivered; what is longer is for the gateway to refuse.
	maxHead = 64 << 10
	// maxFields bounds its fields likewise.
	maxFields = 256
)

// A rehost carries the requests of one connection and gives each the Host that the
// gateway has. Everything else of a head is written as it was read; a body is
// bytes, whose end is where the gateway will see it too: what has two ends, or
// none, is an error.
type rehost struct{ host, port string }

// errUpgrade says that what follows is not HTTP/1.1 any more.
var errUpgrade = errors.New("upgrade")

func (h *rehost) copy(dst io.Writer, src io.Reader) error {
	r := &requests{src: src, buf: make([]byte, 0, bufferSize)}
	for {
		head, err := r.head()
		if err != nil || head == nil {
			return err
		}
		body, err := h.write(dst, head)
		switch {
		case errors.Is(err, errUpgrade):
			if _, err := dst.Write(r.take()); err != nil {
				return err
			}
			return plain(dst, src)
		case err != nil:
			return err
		}
		if err := r.body(dst, body); err != nil {
			return err
		}
	}
}

// write writes a head with another Host, and says what follows it.
func (h *rehost) write(dst io.Writer, raw []byte) (http1.Framing, error) {
	var head http1.Head
	if err := head.Parse(raw, maxFields, false); err != nil {
		return http1.Framing{}, fmt.Errorf("a request: %w", err)
	}
	minor := 1
	switch {
	case strings.HasSuffix(head.Line, " HTTP/1.1"):
	case strings.HasSuffix(head.Line, " HTTP/1.0"):
		minor = 0
	default:
		return http1.Framing{}, errors.New("a request is not of HTTP/1.1 or HTTP/1.0")
	}
	framing, wrong := head.Header.Framing(minor)
	if wrong != nil {
		return framing, fmt.Errorf("a request: %w", wrong)
	}
	// One that has two, or is made out to another host in its first line, says two
	// things: the gateway will refuse it, so let it see both.
	if _, n := head.Header.Get("host"); n <= 1 {
		name := h.host
		if strings.Contains(name, ":") {
			name = "[" + name + "]"
		}
		head.Header = withHost(head.Header, name+":"+h.port)
	}
	out := append(make([]byte, 0, len(raw)+len(h.host)+16), head.Line...)
	out = head.Header.Append(append(out, "\r\n"...))
	if _, err := dst.Write(append(out, "\r\n"...)); err != nil {
		return framing, err
	}
	if head.Header.Has("upgrade") || strings.HasPrefix(head.Line, "CONNECT ") {
		return framing, errUpgrade
	}
	return framing, nil
}

func withHost(h http1.Header, value string) http1.Header {
	for i := range h {
		if h[i].Name == "host" {
			h[i].Value = value
			return h
		}
	}
	return append(http1.Header{{Name: "host", Value: value}}, h...)
}

// requests reads requests one after the other.
type requests struct {
	src io.Reader
	buf []byte // read and not taken
	got []byte // taken by the last head
}

// fill reads more.
func (r *requests) fill() error {
	if len(r.buf) == cap(r.buf) {
		if cap(r.buf) >= maxHead {
			return errors.New("a request's head is too long")
		}
		r.buf = append(make([]byte, 0, min(2*cap(r.buf), maxHead)), r.buf...)
	}
	n, err := r.src.Read(r.buf[len(r.buf):cap(r.buf)])
	r.buf = r.buf[:len(r.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

// drop forgets what was taken.
func (r *requests) drop(n int) {
	r.buf = r.buf[:copy(r.buf, r.buf[n:])]
}

func (r *requests) take() []byte {
	out := append([]byte(nil), r.buf...)
	r.buf = r.buf[:0]
	return out
}

// head returns the next head, or nil at the end.
func (r *requests) head() ([]byte, error) {
	for seen := 0; ; {
		end, wrong := http1.HeadEnd(r.buf, seen)
		if wrong != nil {
			return nil, fmt.Errorf("a request: %w", wrong)
		}
		if end > 0 {
			r.got = append(r.got[:0], r.buf[:end]...)
			r.drop(end)
			return r.got, nil
		}
		seen = len(r.buf)
		if err := r.fill(); errors.Is(err, io.EOF) {
			if len(r.buf) > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// body carries what follows a head.
func (r *requests) body(dst io.Writer, f http1.Framing) error {
	var chunks http1.Chunks
	for left := f.Length; f.Chunked && !chunks.Done() || !f.Chunked && left > 0; {
		if len(r.buf) == 0 {
			if err := r.fill(); errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			} else if err != nil {
				return err
			}
		}
		n := len(r.buf)
		if f.Chunked {
			framing, content, err := chunks.Next(r.buf)
			if err != nil {
				return fmt.Errorf("a request: %w", err)
			}
			n = framing + content
		} else {
			n = int(min(left, int64(n)))
			left -= int64(n)
		}
		if _, err := dst.Write(r.buf[:n]); err != nil {
			return err
		}
		r.drop(n)
	}
	return nil
}
