package http1

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestFieldsAreReadStrictly(t *testing.T) {
	for line, want := range map[string]Field{
		"Host: a":                 {"host", "a"},
		"host:a":                  {"host", "a"},
		"X-A:":                    {"x-a", ""},
		"X-A: \t ":                {"x-a", ""},
		"x-a:\t a b\tc \t":        {"x-a", "a b\tc"},
		"X-A: b: c":               {"x-a", "b: c"},
		"!#$%&'*+-.^_`|~09aZ: v":  {"!#$%&'*+-.^_`|~09az", "v"},
		"X-Ward: 3 \u00e4\u00f6":  {"x-ward", "3 \u00e4\u00f6"},
		"Transfer-ENCODING: gzip": {"transfer-encoding", "gzip"},
	} {
		if got, err := parseField(line, true); err != nil || got != want {
			t.Errorf("%q is read as %q, %v", line, got, err)
		}
	}
	for _, line := range []string{
		"", "a", ":", ": a", " a: b", "\ta: b", "a : b", "a\t: b", "a b: c", "a\x00: b", "a\u00e4: b", "(a): b", "a: b\x00", "a: b\rc", "a: b\nc",
		"a: b\x7f", "a: \x1b[1m", "\"a\": b", "a,b: c", "a/b: c", "a@b: c", "{a}: b",
	} {
		if got, err := parseField(line, false); err == nil {
			t.Errorf("%q is read as %q", line, got)
		}
	}
	if _, err := parseField("a: \xff", true); err == nil {
		t.Error("a value that is not UTF-8 is taken where only UTF-8 may be")
	}
	if got, err := parseField("a: \xff", false); err != nil || got.Value != "\xff" {
		t.Errorf("a value of Latin-1 is read as %q, %v", got, err)
	}
}

// TestErrorsHoldNoByteOfTheMessage: it may be about a patient.
func TestErrorsHoldNoByteOfTheMessage(t *testing.T) {
	const secret = "Mustermann"
	for _, line := range []string{secret, secret + " : a", "a: " + secret + "\x00", " " + secret} {
		if _, err := parseField(line, true); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", line, err)
		}
	}
	for _, line := range []string{secret, "HTTP/1.1 " + secret, "HTTP/1.1 200 " + secret + "\x01"} {
		if _, err := ParseStatus(line); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestWhatWouldSplitAMessageIsNotWritten(t *testing.T) {
	for _, f := range []Field{
		{"", "a"}, {"a b", "c"}, {"a:", "b"}, {"a\r\nb", "c"}, {"a\x00", "b"}, {"\u00e4", "b"},
		{"a", "b\r\nc: d"}, {"a", "b\nc"}, {"a", "b\rc"}, {"a", "\x00"}, {"a", "\x1f"}, {"a", "b\x7f"},
	} {
		if got := (Header{{"x", "1"}, f, {"y", "2"}}).Append([]byte("|")); string(got) != "|X: 1\r\nY: 2\r\n" {
			t.Errorf("%q is written as %q", f, got)
		}
	}
}

func TestNamesAreWrittenWithCapitals(t *testing.T) {
	h := Header{{"content-type", "a"}, {"www-authenticate", ""}, {"x_y-z", "b\tc"}, {"-a--b", "\u00e4"}, {"1a-2b", "d"}}
	want := "Content-Type: a\r\nWww-Authenticate: \r\nX_y-Z: b\tc\r\n-A--B: \u00e4\r\n1a-2b: d\r\n"
	if got := string(h.Append(nil)); got != want {
		t.Errorf("written as %q", got)
	}
	for _, f := range h {
		if got := http.CanonicalHeaderKey(f.Name); !strings.Contains(want, got+": ") {
			t.Errorf("net/http would write %s", got)
		}
	}
}

func TestFieldsOfOneNameKeepTheirOrder(t *testing.T) {
	h := Header{{"a", "1"}, {"b", "2"}, {"a", "3"}, {"A", "4"}}
	if v, n := h.Get("a"); v != "1" || n != 2 {
		t.Errorf("Get: %q, %d", v, n)
	}
	if v, n := h.Get("c"); v != "" || n != 0 {
		t.Errorf("Get of none: %q, %d", v, n)
	}
	if got := h.All("a"); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("All: %q", got)
	}
	if !h.Has("b") || h.Has("c") {
		t.Error("Has")
	}
}

// TestOnlyASCIIIsFolded: a Kelvin sign is no k, and a long s no s.
func TestOnlyASCIIIsFolded(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "abc": "abc", "aBC-Z": "abc-z", "\u212a": "\u212a", "Chun\u212aed": "chun\u212aed", "CLO\u017fE": "clo\u017fe", "\u00c4A": "\u00c4a", "A\xff": "a\xff", "@[Z`{": "@[z`{",
	} {
		if got := LowerASCII(s); got != want {
			t.Errorf("%q becomes %q", s, got)
		}
	}
}

func TestLengthsAreDigitsOnly(t *testing.T) {
	for v, want := range map[string]int64{"0": 0, "1": 1, "10": 10, "4294967296": 1 << 32, "999999999999999999": 999999999999999999} {
		if n, ok := ParseLength(v); !ok || n != want {
			t.Errorf("%q is read as %d, %v", v, n, ok)
		}
	}
	for _, v := range []string{
		"", "00", "01", "+1", "-1", " 1", "1 ", "1,1", "1, 1", "0x1", "1_0", "1.0", "1e3", "a", "\u0661", "1000000000000000000", "18446744073709551617",
	} {
		if n, ok := ParseLength(v); ok {
			t.Errorf("%q is read as %d", v, n)
		}
	}
}

func TestFramingIsNeverAmbiguous(t *testing.T) {
	const cl, te = "content-length", "transfer-encoding"
	for _, tt := range []struct {
		h     Header
		minor int
		want  Framing
		ok    bool
	}{
		{nil, 1, Framing{Length: -1}, true},
		{Header{{"x", "1"}}, 0, Framing{Length: -1}, true},
		{Header{{cl, "0"}}, 1, Framing{}, true},
		{Header{{cl, "5"}}, 0, Framing{Length: 5}, true},
		{Header{{te, "chunked"}}, 1, Framing{Chunked: true, Length: -1}, true},
		{Header{{te, "Chunked"}}, 1, Framing{Chunked: true, Length: -1}, true},
		{Header{{te, "chunked"}}, 0, Framing{}, false},
		{Header{{te, "chunked"}, {cl, "5"}}, 1, Framing{}, false},
		{Header{{cl, "5"}, {te, "identity"}}, 1, Framing{}, false},
		{Header{{te, "chunked"}, {te, "chunked"}}, 1, Framing{}, false},
		{Header{{te, "gzip, chunked"}}, 1, Framing{}, false},
		{Header{{te, "chunked, chunked"}}, 1, Framing{}, false},
		{Header{{te, "chunked;q=1"}}, 1, Framing{}, false},
		{Header{{te, "\vchunked"}}, 1, Framing{}, false},
		{Header{{te, "identity"}}, 1, Framing{}, false},
		{Header{{te, ""}}, 1, Framing{}, false},
		{Header{{te, "chun\u212aed"}}, 1, Framing{}, false}, // a Kelvin sign
		{Header{{cl, "5"}, {cl, "5"}}, 1, Framing{}, false},
		{Header{{cl, "5"}, {cl, "6"}}, 1, Framing{}, false},
		{Header{{cl, "5, 5"}}, 1, Framing{}, false},
		{Header{{cl, ""}}, 1, Framing{}, false},
		{Header{{cl, "-1"}}, 1, Framing{}, false},
	} {
		got, err := tt.h.Framing(tt.minor)
		if (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("%q of HTTP/1.%d: %+v, %v", tt.h, tt.minor, got, err)
		}
	}
}

// FuzzField: what is read can be written, and is then read as the same.
func FuzzField(f *testing.F) {
	for _, s := range []string{"Host: a", "a:", "X-A:\t b\t", " a: b", "a : b", "a: \xff", "a: b\rc", "A-b-C: \u00e4", "a: \x7f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, utf8Only := range []bool{false, true} {
			first, err := parseField(line, utf8Only)
			if err != nil {
				continue
			}
			out := appendField(nil, first.Name, first.Value)
			text, ok := strings.CutSuffix(string(out), "\r\n")
			if !ok || strings.ContainsAny(text, "\r\n\x00") {
				t.Fatalf("%q is written as %q", line, out)
			}
			if again, err := parseField(text, utf8Only); err != nil || again != first {
				t.Fatalf("%q is read as %q, and after writing as %q, %v", line, first, again, err)
			}
		}
	})
}

func ExampleHeader_Append() {
	h := Header{{"content-type", "application/fhir+json"}, {"x-forged", "a\r\nSet-Cookie: b"}}
	fmt.Printf("%q\n", h.Append(nil))
	// Output: "Content-Type: application/fhir+json\r\n"
}
