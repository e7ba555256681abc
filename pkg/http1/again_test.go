package http1

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

const told = "POST /a HTTP/1.1\r\nHost: a.example\r\nX-Request-Id: 0001\r\nAccept: */*\r\nContent-Length: 5\r\n\r\n"

// What is read by what the head before was is what is read from it alone.
func TestAHeadThatDiffersInValuesIsReadByTheOneBefore(t *testing.T) {
	for _, tc := range []struct {
		name, next string
		differs    string // the fields that do
		whole      bool   // it has to be read whole
	}{
		{name: "the same", next: told},
		{name: "another value", next: strings.Replace(told, "0001", "0002", 1), differs: "x-request-id"},
		{name: "a longer one, and a shorter", next: strings.NewReplacer("0001", "00000001", "*/*", "a").Replace(told), differs: "x-request-id accept"},
		{name: "none", next: strings.Replace(told, " 0001", "", 1), differs: "x-request-id"},
		{name: "more blanks, and fewer", next: strings.NewReplacer("Id: 0001", "Id: \t0001  ", ": */*", ":*/*").Replace(told), differs: "x-request-id accept"},
		{name: "a colon in it", next: strings.Replace(told, "0001", "Host: b", 1), differs: "x-request-id"},
		{name: "the last field", next: strings.Replace(told, "h: 5", "h: 17", 1), differs: "content-length"},
		{name: "UTF-8", next: strings.Replace(told, "0001", "\u00e4", 1), differs: "x-request-id"},
		{name: "another first line", next: strings.Replace(told, "/a", "/b", 1), whole: true},
		{name: "another name", next: strings.Replace(told, "X-Request-Id", "X-Request-Ie", 1), whole: true},
		{name: "a name written otherwise", next: strings.Replace(told, "X-Request-Id", "x-request-id", 1), whole: true},
		{name: "a longer name", next: strings.Replace(told, "Id:", "Ida:", 1), whole: true},
		{name: "a field less", next: strings.Replace(told, "Accept: */*\r\n", "", 1), whole: true},
		{name: "the last one less", next: strings.Replace(told, "Content-Length: 5\r\n", "", 1), whole: true},
		{name: "a field more", next: strings.Replace(told, "\r\n\r\n", "\r\nA: b\r\n\r\n", 1), whole: true},
		{name: "another order", next: strings.Replace(told, "Accept: */*\r\nContent-Length: 5\r\n", "Content-Length: 5\r\nAccept: */*\r\n", 1), whole: true},
		{name: "longer than what is kept", next: strings.Replace(told, "0001", strings.Repeat("1", maxKept), 1), whole: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var h Heads
			if err := h.Parse([]byte(told), 9, true); err != nil {
				t.Fatal(err)
			}
			for _, behind := range []string{"", "hello", "\r\n", told} {
				b := []byte(tc.next + behind)
				n := h.Again(b, true)
				if tc.whole {
					if n != 0 || !slices.Equal(h.Header, read(t, told).Header) {
						t.Errorf("%d bytes are read, and it is %q now", n, h.Header)
					}
					continue
				}
				if want := read(t, tc.next); n != len(tc.next) || h.Line != want.Line || !slices.Equal(h.Header, want.Header) {
					t.Errorf("%d bytes are read as %q %q", n, h.Line, h.Header)
				}
				if string(b) != tc.next+behind {
					t.Error("it was written to")
				}
				var names []string
				h.Differs(func(name string) bool { names = append(names, name); return false })
				if got := strings.Join(names, " "); got != tc.differs {
					t.Errorf("there differ %q", got)
				}
				// And back, so that what is known is that of the head that was read.
				if n := h.Again([]byte(told), true); n != len(told) || !slices.Equal(h.Header, read(t, told).Header) {
					t.Errorf("%d bytes are read as %q", n, h.Header)
				}
			}
			// As long as it is not whole nothing is done, and then it is.
			for i := range len(tc.next) {
				if n := h.Again([]byte(tc.next[:i]), true); n != 0 {
					t.Fatalf("of %q %d bytes are read", tc.next[:i], n)
				}
			}
			if n := h.Again([]byte(tc.next), true); (n == 0) != tc.whole {
				t.Errorf("%d bytes are read in the end", n)
			}
		})
	}
}

// read reads a head by itself.
func read(t *testing.T, s string) Head {
	t.Helper()
	var h Head
	if err := h.Parse([]byte(s), 99, true); err != nil {
		t.Fatal(err)
	}
	return h
}

// What is not HTTP/1.1 is not read by what came before it either.
func TestAValueThatIsNoneIsNotReadAgain(t *testing.T) {
	for _, line := range []string{
		"X-Request-Id: \x00", "X-Request-Id: a\rb", "X-Request-Id: a\r", "X-Request-Id: a\x7f", "X-Request-Id: \xff", "X-Request-Id : 0001", " X-Request-Id: 0001", "X-Request-Id",
		"X-Request-Id: a\nb: c", "X-Request-Id: a\r\n b", "", "\t",
	} {
		var h Heads
		if err := h.Parse([]byte(told), 9, true); err != nil {
			t.Fatal(err)
		}
		if n := h.Again([]byte(strings.Replace(told, "X-Request-Id: 0001", line, 1)), true); n != 0 {
			t.Errorf("%q: %d bytes are read as %q", line, n, h.Header)
		}
	}
	// A server's may be Latin-1.
	var h Heads
	if err := h.Parse([]byte(told), 9, false); err != nil {
		t.Fatal(err)
	}
	if n := h.Again([]byte(strings.Replace(told, "0001", "\xff", 1)), false); n == 0 || h.Header[1].Value != "\xff" {
		t.Errorf("%d bytes are read as %q", n, h.Header)
	}
}

// Of what was refused, or is forgotten, nothing is known.
func TestWhatWasNotReadIsNotReadAgain(t *testing.T) {
	var h Heads
	if n := h.Again([]byte(told), true); n != 0 {
		t.Error("the first head is read by none")
	}
	for name, spoil := range map[string]func(){
		"refused":  func() { _ = h.Parse([]byte("a\r\nb : c\r\n\r\n"), 9, true) },
		"too many": func() { _ = h.Parse([]byte(told), 1, true) },
		"large":    func() { _ = h.Parse([]byte("a\r\nb: "+strings.Repeat("c", maxKept)+"\r\n\r\n"), 9, true) },
		"forgot":   h.Forget,
	} {
		if err := h.Parse([]byte(told), 9, true); err != nil {
			t.Fatal(err)
		}
		spoil()
		for _, s := range []string{told, "a\r\nb : c\r\n\r\n"} {
			if n := h.Again([]byte(s), true); n != 0 {
				t.Errorf("%s: %d bytes of %q are read", name, n, s)
			}
		}
	}
}

// FuzzAgain: a head that is read by what the one before was, is read as it is by
// itself, and a head that is whole and taken alone is taken behind another too.
func FuzzAgain(f *testing.F) {
	f.Add([]byte(told), []byte(strings.Replace(told, "0001", "0002", 1)+"hello"), true)
	f.Add([]byte(told), []byte(strings.Replace(told, "0001\r\n", "\r\n\r\n", 1)), true)
	f.Add([]byte("a\r\n\r\n"), []byte("a\r\nb: c\r\n\r\n"), false)
	f.Add([]byte("a\r\rb\r\nC: d\r\nc:\r\n\r\n"), []byte("a\r\rb\r\nC:\te\r\nc: \xff\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.1 200 OK\r\nDate: a\r\nContent-Length: 0\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nDate: bc\r\nContent-Length: 10\r\n\r\n"), false)
	f.Fuzz(func(t *testing.T, first, second []byte, utf8Only bool) {
		const most = 64
		var h Heads
		n, syntax := HeadEnd(first, 0)
		if syntax != nil || n == 0 || h.Parse(bytes.Clone(first[:n]), most, utf8Only) != nil {
			return
		}
		before := slices.Clone(h.Header)
		got := h.Again(second, utf8Only)
		var alone Head
		n, syntax = HeadEnd(second, 0)
		switch {
		case got == 0:
			if !slices.Equal(h.Header, before) {
				t.Fatalf("%q behind %q is not read, and leaves %q", second, first, h.Header)
			}
			if syntax == nil && n > 0 && n <= maxKept && bytes.HasPrefix(first, second[:n]) {
				t.Fatalf("%q is not read again", second)
			}
			return
		case syntax != nil || n != got:
			t.Fatalf("%q behind %q is read up to %d, and alone up to %d, %v", second, first, got, n, syntax)
		}
		if err := alone.Parse(bytes.Clone(second[:n]), most, utf8Only); err != nil || alone.Line != h.Line || !slices.Equal(alone.Header, h.Header) {
			t.Fatalf("%q behind %q is read as %q %q, and alone as %q %q, %v", second, first, h.Line, h.Header, alone.Line, alone.Header, err)
		}
		at := 0
		h.Differs(func(name string) bool { at++; return false })
		differ := 0
		for i := range before {
			if before[i].Value != h.Header[i].Value {
				differ++
			}
		}
		if at < differ {
			t.Fatalf("%q differs from %q in %d fields, and %d are named", second, first, differ, at)
		}
		// What is known now is what was read last.
		if again := h.Again(second, utf8Only); again != got || !slices.Equal(alone.Header, h.Header) {
			t.Fatalf("%q is read as %q, %d bytes, the second time", second, h.Header, again)
		}
	})
}

// BenchmarkHeads is reading a head that was read before, that differs in a value, and
// that has to be read whole.
func BenchmarkHeads(b *testing.B) {
	one := "POST /fhir/Observation HTTP/1.1\r\nHost: gateway.example:8443\r\nX-Request-Id: 00000001\r\nAccept: application/fhir+json\r\n" +
		"Content-Type: application/fhir+json\r\nContent-Length: 1024\r\n\r\n"
	for name, other := range map[string]string{"Same": one, "Value": strings.Replace(one, "00001", "00002", 1), "Whole": strings.Replace(one, "Obs", "obs", 1)} {
		b.Run(name, func(b *testing.B) {
			var h Heads
			turns, buf := [2]string{one, other}, make([]byte, 0, 1024)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				buf = append(buf[:0], turns[i%2]...)
				if h.Again(buf, true) > 0 {
					continue
				}
				if n, err := HeadEnd(buf, 0); err != nil || h.Parse(buf[:n], 100, true) != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
