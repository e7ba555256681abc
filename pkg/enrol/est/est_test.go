package est

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestBodiesAreReadAsClientsWriteThem(t *testing.T) {
	der := []byte{0x30, 0x82, 1, 2, 3, 4}
	text := base64.StdEncoding.EncodeToString(der)
	for what, body := range map[string][]byte{
		"base64": []byte(text), "with line breaks": []byte(text[:3] + "\r\n" + text[3:] + "\n"), "DER": der,
	} {
		if got, err := decode(body); err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: %x %v", what, got, err)
		}
	}
	for what, body := range map[string]string{"spaces": text[:4] + " " + text[4:], "another alphabet": "MIIB-_", "padding in between": "MI==MI=="} {
		if got, err := decode([]byte(body)); err == nil {
			t.Errorf("%s is read as %x", what, got)
		}
	}
}

// TestAnswersAreInLinesOrInOne: what RFC 2045 §6.8 wants, or the bare text of RFC
// 4648 §4 with not even a break behind it.
func TestAnswersAreInLinesOrInOne(t *testing.T) {
	for _, n := range []int{1, 57, 58, 1000} {
		der := bytes.Repeat([]byte{0xa5}, n)
		for _, one := range []bool{false, true} {
			s := &server{Config{OneLine: func() bool { return one }}}
			w := httptest.NewRecorder()
			s.send(w, http.StatusOK, "application/pkcs7-mime", der)
			text := w.Body.String()
			if got := strings.Contains(text, "\r\n"); got == one {
				t.Errorf("%d octets, one line %v: %q", n, one, text)
			}
			for line := range strings.Lines(text) {
				if len(strings.TrimRight(line, "\r\n")) > lineLen && !one {
					t.Errorf("%d octets: a line of %d characters", n, len(line))
				}
			}
			got, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text, "\r\n", ""))
			if err != nil || !bytes.Equal(got, der) {
				t.Errorf("%d octets, one line %v: %v", n, one, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("MIIBADCBpwIBADAA"))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n"))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := decode(body)
		if err == nil && len(out) > len(body) {
			t.Errorf("%d bytes became %d", len(body), len(out))
		}
	})
}
