package est

import (
	"bytes"
	"encoding/base64"
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
