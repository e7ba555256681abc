package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// pseudonymBytes is how much of the HMAC a pseudonym keeps: 128 bits, far past
// any chance that two patients share one, and half the length of a whole one.
const pseudonymBytes = 16

// pseudonymPrefix marks a text as a pseudonym, and says how it was made.
const pseudonymPrefix = "hmac:"

// timeForm is RFC 3339 with all nine digits, so that times sort as texts.
const timeForm = "2006-01-02T15:04:05.000000000Z"

// An encoder turns tokens into JSON lines. It belongs to one goroutine.
type encoder struct {
	run string    // id of this run of the program
	mac hash.Hash // nil: identifiers stay in the clear
	sum [sha256.Size]byte
}

// newEncoder returns an encoder that writes pseudonyms made with key, or, if
// key is nil, identifiers as they are.
func newEncoder(run string, key []byte) *encoder {
	e := &encoder{run: run}
	if key != nil {
		e.mac = hmac.New(sha256.New, key)
	}
	return e
}

var errToken = errors.New("malformed record in the buffer")

// line appends the JSON line of the record whose tokens are t, without its line
// break.
func (e *encoder) line(b []byte, seq uint64, t []byte) ([]byte, error) {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, `,"run":"`...)
	b = append(b, e.run...)
	b = append(b, '"')
	b, err := e.members(b, t)
	if err != nil {
		return b, err
	}
	return append(b, '}'), nil
}

// members appends the members of an object whose tokens are t.
func (e *encoder) members(b, t []byte) ([]byte, error) {
	for i := 0; i < len(t); {
		o := op(t[i])
		i++
		switch o {
		case opKey:
			if i >= len(t) || int(t[i]) >= len(names) {
				return b, errToken
			}
			b = append(comma(b), '"')
			b = append(b, names[t[i]]...)
			b = append(b, '"', ':')
			i++
		case opName, opString, opSecret:
			s, n := text(t[i:])
			if n < 0 {
				return b, errToken
			}
			i += n
			b = comma(b)
			switch {
			case o == opName:
				b = append(appendJSON(b, s), ':')
			case o == opSecret && e.mac != nil:
				b = append(b, '"')
				b = e.pseudonym(b, s)
				b = append(b, '"')
			default:
				b = appendJSON(b, s)
			}
		case opInt:
			v, n := binary.Varint(t[i:])
			if n <= 0 {
				return b, errToken
			}
			i += n
			b = strconv.AppendInt(comma(b), v, 10)
		case opTrue:
			b = append(comma(b), "true"...)
		case opFalse:
			b = append(comma(b), "false"...)
		case opNull:
			b = append(comma(b), "null"...)
		case opOpen:
			b = append(comma(b), '{')
		case opClose:
			b = append(b, '}')
		case opOpenList:
			b = append(comma(b), '[')
		case opCloseList:
			b = append(b, ']')
		case opTime:
			if len(t)-i < 8 {
				return b, errToken
			}
			b = append(comma(b), '"')
			b = time.Unix(0, int64(binary.LittleEndian.Uint64(t[i:]))).UTC().AppendFormat(b, timeForm)
			b = append(b, '"')
			i += 8
		case opAddr:
			s, n := text(t[i:])
			if n < 0 {
				return b, errToken
			}
			i += n
			b = append(comma(b), '"')
			b = appendRemote(b, s)
			b = append(b, '"')
		case opFixed:
			s, n := text(t[i:])
			if n < 0 {
				return b, errToken
			}
			i += n
			b = append(comma(b), s...)
		case opRaw:
			s, n := text(t[i:])
			if n < 0 {
				return b, errToken
			}
			i += n
			b = append(b, s...)
		default:
			return b, fmt.Errorf("%w: token %d", errToken, o)
		}
	}
	return b, nil
}

// comma appends a comma unless b stands where none may be: behind an opening
// bracket, a name's colon or another comma. What stands there is always
// structure: a text ends with a quotation mark.
func comma(b []byte) []byte {
	switch b[len(b)-1] {
	case '{', '[', ':', ',':
		return b
	}
	return append(b, ',')
}

// text reads a length and that many bytes, and returns how many bytes both
// took, or -1.
func text(t []byte) ([]byte, int) {
	n, w := binary.Uvarint(t)
	if w <= 0 || n > uint64(len(t)-w) {
		return nil, -1
	}
	end := w + int(n)
	return t[w:end], end
}

func appendRemote(b, bin []byte) []byte {
	var a netip.AddrPort
	if a.UnmarshalBinary(bin) != nil {
		return b
	}
	if a.Port() == 0 {
		return a.Addr().Unmap().WithZone("").AppendTo(b)
	}
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).AppendTo(b)
}

func (e *encoder) pseudonym(b, value []byte) []byte {
	e.mac.Reset()
	e.mac.Write(value)
	sum := e.mac.Sum(e.sum[:0])
	return hex.AppendEncode(append(b, pseudonymPrefix...), sum[:pseudonymBytes])
}

// Pseudonym returns what records hold in the place of an identifier, so that a
// search for a patient need not know how: "hmac:" and the first 16 bytes of
// HMAC-SHA256(key, value) in hex.
func Pseudonym(key []byte, value string) string {
	return string(newEncoder("", key).pseudonym(nil, []byte(value)))
}

const hexDigits = "0123456789abcdef"

// plain holds for each byte whether it stands for itself in a JSON text.
// Control characters never do, DEL included: a terminal that shows a line must
// not obey it.
var plain = func() (p [utf8.RuneSelf]bool) {
	for c := range p {
		p[c] = c >= 0x20 && c != 0x7f && c != '"' && c != '\\'
	}
	return p
}()

// appendJSON appends s as a JSON text. Bytes that are no UTF-8 become U+FFFD;
// control characters, those of C1, line separators and marks that change the
// direction of text are escaped.
func appendJSON(b, s []byte) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, s[from:i]...)
			b = append(b, `\ufffd`...)
			from = i + n
		case r < 0xa0, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f:
			b = append(b, s[from:i]...)
			b = append(b, '\\', 'u', hexDigits[r>>12&0xf], hexDigits[r>>8&0xf], hexDigits[r>>4&0xf], hexDigits[r&0xf])
			from = i + n
		}
		i += n
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
