package scep

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"slices"
	"testing"
)

func TestBERBecomesDER(t *testing.T) {
	for what, c := range map[string]struct{ in, want []byte }{
		"DER":                       {[]byte{0x30, 3, 2, 1, 5}, []byte{0x30, 3, 2, 1, 5}},
		"an indefinite length":      {[]byte{0x30, 0x80, 2, 1, 5, 0, 0}, []byte{0x30, 3, 2, 1, 5}},
		"one in another":            {[]byte{0x30, 0x80, 0xa0, 0x80, 2, 1, 5, 0, 0, 0, 0}, []byte{0x30, 5, 0xa0, 3, 2, 1, 5}},
		"a length that is too long": {[]byte{0x30, 0x83, 0, 0, 3, 2, 1, 5}, []byte{0x30, 3, 2, 1, 5}},
		"a string in pieces":        {[]byte{0x24, 0x80, 4, 2, 'a', 'b', 4, 1, 'c', 0, 0}, []byte{4, 3, 'a', 'b', 'c'}},
		"a string of no pieces":     {[]byte{0x24, 0}, []byte{4, 0}},
	} {
		if got, err := toDER(c.in); err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %x %v", what, got, err)
		}
	}
	deep := bytes.Repeat([]byte{0x30, 0x80}, maxDepth+2)
	deep = append(deep, make([]byte, 2*(maxDepth+2))...)
	for what, in := range map[string][]byte{
		"nothing": nil, "a head alone": {0x30}, "more than there is": {0x30, 4, 2, 1, 5}, "something behind": {5, 0, 5, 0}, "no end": {0x30, 0x80, 5, 0},
		"a long tag": {0x1f, 0x81, 1, 0}, "a primitive without a length": {4, 0x80, 0, 0}, "a length of five octets": {4, 0x85, 0, 0, 0, 0, 1, 0}, "too deep": deep,
		"pieces in pieces": {0x24, 4, 0x24, 2, 4, 0}, "a piece that is something else": {0x24, 3, 2, 1, 5}, "a child past its parent": {0x30, 3, 4, 2, 0, 4, 0},
		"too many": append([]byte{0x30, 0x82, 0x40, 2}, bytes.Repeat([]byte{5, 0}, maxElements+1)...),
	} {
		if got, err := toDER(in); err == nil {
			t.Errorf("%s is read as %x", what, got)
		}
	}
}

func TestPaddingIsSoundOrNone(t *testing.T) {
	block := func(tail ...byte) []byte { return append(make([]byte, aes.BlockSize-len(tail)), tail...) }
	for what, c := range map[string]struct {
		in   []byte
		want int
	}{
		"one": {block(1), 1}, "three": {block(3, 3, 3), 3}, "a whole block": {bytes.Repeat([]byte{16}, 16), 16}, "none": {block(0), 0},
		"longer than a block": {bytes.Repeat([]byte{17}, 16), 0}, "one that differs": {block(3, 2, 3), 0}, "the last differs": {block(2, 3, 3), 0},
	} {
		if got := padding(c.in, aes.BlockSize); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
}

// TestABERMessageIsRead: with indefinite lengths and strings in pieces, as
// Bouncy Castle writes them.
func TestABERMessageIsRead(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "")
	token := d.token("pump-1", "infusion-pump")
	c := d.client(0)
	msg := loose(t, c.message(pkcsReq, loose(t, c.seal(c.csr("pump-1", token)))))
	if der, err := toDER(msg); err != nil || bytes.Equal(der, msg) {
		t.Fatalf("it is DER already: %v", err)
	}
	if got := c.send(msg); got.status != success {
		t.Errorf("%+v", got)
	}
}

// loose writes a ContentInfo with indefinite lengths, and what is in it in pieces.
func loose(t testing.TB, der []byte) []byte {
	t.Helper()
	var info struct {
		Kind    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		t.Fatal(err)
	}
	var inner asn1.RawValue
	if _, err := asn1.Unmarshal(info.Content.Bytes, &inner); err != nil {
		t.Fatal(err)
	}
	var parts []asn1.RawValue
	for rest := inner.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, v)
	}
	kind, err := asn1.Marshal(info.Kind)
	if err != nil {
		t.Fatal(err)
	}
	end := []byte{0, 0}
	body := []byte{0x30, 0x80}
	for _, p := range parts {
		body = append(body, inPieces(p)...)
	}
	return slices.Concat([]byte{0x30, 0x80}, kind, []byte{0xa0, 0x80}, body, end, end, end)
}

// inPieces writes the content of an encapsulated or encrypted content in pieces.
func inPieces(p asn1.RawValue) []byte {
	if p.Tag != asn1.TagSequence || !p.IsCompound {
		return p.FullBytes
	}
	out := []byte{0x30, 0x80}
	for rest := p.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return p.FullBytes
		}
		switch {
		case v.Class == asn1.ClassContextSpecific && !v.IsCompound: // [0] IMPLICIT OCTET STRING
			out = append(out, 0xa0, 0x80)
			out = append(out, pieces(v.Bytes)...)
			out = append(out, 0, 0)
		case v.Class == asn1.ClassContextSpecific && v.Tag == 0: // [0] EXPLICIT OCTET STRING
			var inner asn1.RawValue
			if _, err := asn1.Unmarshal(v.Bytes, &inner); err != nil {
				return p.FullBytes
			}
			out = append(out, 0xa0, 0x80, 0x24, 0x80)
			out = append(out, pieces(inner.Bytes)...)
			out = append(out, 0, 0, 0, 0)
		default:
			out = append(out, v.FullBytes...)
		}
	}
	return append(out, 0, 0)
}

func pieces(b []byte) (out []byte) {
	for part := range slices.Chunk(b, 100) {
		out = append(append(out, 4, byte(len(part))), part...)
	}
	return out
}

func FuzzMessage(f *testing.F) {
	to, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	c := &client{t: f, key: to, hash: crypto.SHA256, how: sealings[0]}
	c.cert = c.self()
	c.to = c.cert
	csr := c.csr("pump-1", "8JS0VB9-78HPPPN-KS464V2-2B3W8M1-DFQCD83")
	f.Add([]byte{0x30, 0x80, 0x24, 0x80, 4, 1, 1, 0, 0, 0, 0})
	f.Add(csr)
	f.Add(c.seal(csr))
	f.Add(c.message(pkcsReq, c.seal(csr)))
	f.Add(loose(f, c.message(renewalReq, loose(f, c.seal(csr)))))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 64<<10 {
			return
		}
		der, err := toDER(in)
		if err == nil {
			if len(der) > len(in) {
				t.Errorf("%d bytes became %d", len(in), len(der))
			}
			again, err := toDER(der)
			if err != nil || !bytes.Equal(again, der) {
				t.Errorf("DER is read as something else: %x %x %v", der, again, err)
			}
		}
		if m, err := parse(in); err == nil {
			if m.signer == nil || m.hash == 0 || len(m.transaction) > maxTransaction || len(m.nonce) > maxNonce {
				t.Errorf("%+v", m)
			}
			_ = m.verify()
			if e, err := readEnvelope(m.content, m.signer); err == nil && e.key != nil { // else it takes long for nothing
				_, _ = e.open(to)
			}
		}
		if e, err := readEnvelope(in, c.cert); err == nil && e.key != nil {
			_, _ = e.open(to)
		}
		_, _, _ = request(in)
	})
}
