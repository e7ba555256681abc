package http1

import (
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"
)

// unchunk reads a body that comes in the given pieces, and returns its content
// and how many bytes it took.
func unchunk(c *Chunks, pieces ...[]byte) (content []byte, taken int, err error) {
	for _, p := range pieces {
		for len(p) > 0 && !c.Done() {
			skip, n, err := c.Next(p)
			if err != nil {
				return content, taken, err
			}
			content = append(content, p[skip:skip+n]...)
			p = p[skip+n:]
			taken += skip + n
		}
	}
	if !c.Done() {
		return content, taken, io.ErrUnexpectedEOF
	}
	return content, taken, nil
}

func TestChunkedBodies(t *testing.T) {
	for s, want := range map[string]string{
		"0\r\n\r\n":                              "",
		"1\r\na\r\n0\r\n\r\n":                    "a",
		"3\r\na\r\n\r\n0\r\n\r\n":                "a\r\n",
		"A\r\n0123456789\r\n1\r\n!\r\n0\r\n\r\n": "0123456789!",
		"a\r\n0123456789\r\n0\r\nX-A: b\r\n\r\n": "0123456789",
		"5\r\n0\r\n\r\n\r\n0\r\n\r\n":            "0\r\n\r\n",
	} {
		const behind = "GET / HTTP/1.1"
		for _, lenient := range []bool{false, true} {
			// In one piece, and in any two.
			for i := range len(s) + 1 {
				c := Chunks{Lenient: lenient}
				got, n, err := unchunk(&c, []byte(s[:i]), []byte(s[i:]+behind))
				if err != nil || string(got) != want || n != len(s) {
					t.Fatalf("%q, cut at %d: %q, %d of %d bytes, %v", s, i, got, n, len(s), err)
				}
			}
		}
	}
}

func TestChunksThatAreRefused(t *testing.T) {
	for _, s := range []string{
		"\r\n", "\n", "g\r\n", " 1\r\na\r\n", "+1\r\na\r\n", "-1\r\na\r\n", "0x1\r\na\r\n", "1\na\r\n", "1\r\na\n", "1\r\nab\r\n", "1\r\na\r\r\n", "1\r\r\na\r\n",
		"1000000000000000\r\n", "ffffffffffffffff\r\n", "1_0\r\n", "\u0661\r\na\r\n", "0\r\n\n", "0\n\r\n", "0\r\na\r\n\r\n", "0\r\n a: b\r\n\r\n", "0\r\na : b\r\n\r\n",
		"0\r\na: b\n\r\n", "0\r\na: b\rc: d\r\n\r\n", "0\r\na: \x00\r\n\r\n", "0\r\n" + strings.Repeat("a: b\r\n", maxTrailerFields+1) + "\r\n",
		"0\r\na: " + strings.Repeat("b", maxTrailer) + "\r\n\r\n", "1;a\x00\r\na\r\n", "1;a\nb\r\na\r\n", "1;" + strings.Repeat("a", maxExtension+1) + "\r\na\r\n",
		"1 1\r\na\r\n0\r\n\r\n", "1\t1\r\na\r\n0\r\n\r\n", "1 \x00\r\na\r\n", "1 a;b\r\na\r\n", "0000000000000001\r\na\r\n",
	} {
		for _, lenient := range []bool{false, true} {
			c := Chunks{Lenient: lenient}
			if got, _, err := unchunk(&c, []byte(s)); !errors.Is(err, errChunks) {
				t.Errorf("%q, lenient %v: %q, %v", s, lenient, got, err)
			}
		}
	}
}

// TestWhatOnlyServersWrite: no device needs it, so that none may.
func TestWhatOnlyServersWrite(t *testing.T) {
	for s, want := range map[string]string{
		"1;a=b\r\na\r\n0\r\n\r\n":               "a",
		"1 ;a=\"b c\"\r\na\r\n0;x\r\n\r\n":      "a",
		"1 \t \r\na\r\n0  \r\n\r\n":             "a",
		"001\r\na\r\n000\r\n\r\n":               "a",
		"1\r\na\r\n0\r\nX-Ward: \xe4\r\n\r\n":   "a",
		"1;\r\na\r\n00;a;b\r\nX: y\r\n\r\n":     "a",
		"000000000000001\r\na\r\n0 ;\t\r\n\r\n": "a",
	} {
		strict, lenient := Chunks{}, Chunks{Lenient: true}
		if got, _, err := unchunk(&strict, []byte(s)); !errors.Is(err, errChunks) {
			t.Errorf("%q is taken from a device as %q, %v", s, got, err)
		}
		if got, _, err := unchunk(&lenient, []byte(s)); err != nil || string(got) != want {
			t.Errorf("%q is read as %q, %v", s, got, err)
		}
	}
}

func TestTrailersAreKept(t *testing.T) {
	var c Chunks
	s := "1\r\na\r\n0\r\nX-A: b\r\nx-a:\r\nY: c \r\n\r\n"
	if _, _, err := unchunk(&c, []byte(s)); err != nil {
		t.Fatal(err)
	}
	if want := (Header{{"x-a", "b"}, {"x-a", ""}, {"y", "c"}}); !slices.Equal(c.Trailer, want) {
		t.Errorf("read as %q", c.Trailer)
	}
	if skip, n, err := c.Next([]byte("more")); skip != 0 || n != 0 || err != nil {
		t.Errorf("past its end a body takes %d and %d bytes, %v", skip, n, err)
	}
}

func TestChunkLines(t *testing.T) {
	for n, want := range map[int]string{0: "0\r\n", 1: "1\r\n", 15: "f\r\n", 16: "10\r\n", 255: "ff\r\n", 4096: "1000\r\n", 1<<62 + 1: "4000000000000001\r\n"} {
		if got := string(AppendChunk([]byte("|"), n)); got != "|"+want {
			t.Errorf("%d is written as %q", n, got)
		}
	}
}

// FuzzChunks: however a body is cut it is read alike; what is taken strictly is
// taken leniently; and what is taken at all net/http reads as the same.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{
		"0\r\n\r\n", "1\r\na\r\n0\r\n\r\nrest", "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", "2 \r\nab\r\n00\r\n\r\n", "1 1\r\na\r\n0\r\n\r\n", "1\na\r\n0\r\n\r\n",
		"fffffffffffffff\r\n", "A\r\n0123456789\r\n0 ;x\r\n\r\n",
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var results [2]error
		for i, lenient := range []bool{false, true} {
			whole := Chunks{Lenient: lenient}
			content, n, err := unchunk(&whole, b)
			results[i] = err
			cut := min(max(cut, 0), len(b))
			parts := Chunks{Lenient: lenient}
			again, m, errAgain := unchunk(&parts, b[:cut], b[cut:])
			if (err == nil) != (errAgain == nil) || err == nil && (!bytes.Equal(content, again) || n != m || !slices.Equal(whole.Trailer, parts.Trailer)) {
				t.Fatalf("%q: %q, %d, %v; cut at %d: %q, %d, %v", b, content, n, err, cut, again, m, errAgain)
			}
			if err != nil {
				continue
			}
			theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(b)))
			// It bounds framing in proportion to content, and knows no blank before an
			// extension (RFC 9112 section 7.1.1), which leaves nothing in doubt.
			if err != nil && (strings.Contains(err.Error(), "too much non-data") || bytes.Contains(b, []byte(" ;")) || bytes.Contains(b, []byte("\t;"))) {
				continue
			}
			if err != nil || !bytes.Equal(content, theirs) {
				t.Fatalf("%q, lenient %v: read as %q, by net/http as %q, %v", b, lenient, content, theirs, err)
			}
		}
		if results[0] == nil && results[1] != nil {
			t.Fatalf("%q is taken from a device and not from a server: %v", b, results[1])
		}
	})
}
