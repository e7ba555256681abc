package scep

import (
	"errors"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// maxDepth and maxElements bound the structure of a message. The deepest there
	// is, with names in certificates, has 14 levels; a signed message with a chain
	// has some 500 elements.
	maxDepth    = 32
	maxElements = 8192
	// constructed is the bit of an identifier octet that says that a value is made of
	// elements (X.690 §8.1.2.5).
	constructed = 0x20
	octets      = 0x04
)

var errBER = errors.New("the message is not BER within limits (X.690)")

// A reader writes BER anew as DER. CMS (RFC 5652 §10.1) lets messages be BER, and
// libraries of devices use its indefinite lengths; what is read after this has one
// spelling.
type reader struct {
	in       []byte
	elements int
}

// toDER returns a message as DER. What has at most 64 KiB does not grow.
func toDER(in []byte) ([]byte, error) {
	r := &reader{in: in}
	var b cryptobyte.Builder
	if err := r.element(&b, 0); err != nil {
		return nil, err
	}
	if len(r.in) != 0 {
		return nil, errBER
	}
	return b.Bytes()
}

// head reads an identifier and a length; length is -1 if it is indefinite.
func (r *reader) head() (tag byte, length int, err error) {
	if len(r.in) < 2 {
		return 0, 0, errBER
	}
	tag, first := r.in[0], r.in[1]
	r.in = r.in[2:]
	if tag&0x1f == 0x1f {
		return 0, 0, errBER // a tag of more than one octet: nothing here has one
	}
	switch {
	case first < 0x80:
		length = int(first)
	case first == 0x80:
		if tag&constructed == 0 {
			return 0, 0, errBER
		}
		return tag, -1, nil
	default:
		n := int(first & 0x7f)
		if n > 4 || len(r.in) < n {
			return 0, 0, errBER
		}
		for _, c := range r.in[:n] {
			length = length<<8 | int(c)
		}
		r.in = r.in[n:]
	}
	if length < 0 || length > len(r.in) {
		return 0, 0, errBER
	}
	return tag, length, nil
}

// element writes one element.
func (r *reader) element(b *cryptobyte.Builder, depth int) error {
	if r.elements++; r.elements > maxElements || depth > maxDepth {
		return errBER
	}
	tag, length, err := r.head()
	if err != nil {
		return err
	}
	if tag&constructed == 0 {
		value := r.in[:length]
		r.in = r.in[length:]
		b.AddASN1(asn1.Tag(tag), func(b *cryptobyte.Builder) { b.AddBytes(value) })
		return nil
	}
	// An OCTET STRING in pieces is one.
	pieces := tag == octets|constructed
	if pieces {
		tag = octets
	}
	b.AddASN1(asn1.Tag(tag), func(b *cryptobyte.Builder) { err = r.children(b, length, depth, pieces) })
	return err
}

// children writes what a constructed element is made of.
func (r *reader) children(b *cryptobyte.Builder, length, depth int, pieces bool) error {
	rest := []byte(nil)
	if length >= 0 {
		rest = r.in[length:]
		r.in = r.in[:length]
	}
	for {
		if length >= 0 && len(r.in) == 0 {
			r.in = rest
			return nil
		}
		if length < 0 && len(r.in) >= 2 && r.in[0] == 0 && r.in[1] == 0 {
			r.in = r.in[2:]
			return nil
		}
		if pieces {
			if r.elements++; r.elements > maxElements {
				return errBER
			}
			tag, n, err := r.head()
			if err != nil || tag != octets {
				return errBER
			}
			b.AddBytes(r.in[:n])
			r.in = r.in[n:]
			continue
		}
		if err := r.element(b, depth+1); err != nil {
			return err
		}
	}
}
