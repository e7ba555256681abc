package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"time"
)

// A record is a state, which is written over in place and so not part of the
// checksum; the length of the message; a checksum of what follows; number, time,
// digest; and the message. A record without one stands for a message that was
// taken and is still remembered.
const (
	headLen = 1 + 4 + 4 + 8 + 8 + 16

	waits byte = 'W'
	begun byte = 'B' // waits, and its delivery has begun; see Queue.Begin
	taken byte = 'T'
)

type record struct {
	state  byte
	seq    uint64
	at     time.Time
	digest Digest
	body   []byte
}

func (r *record) len() int64 { return headLen + int64(len(r.body)) }

func (r *record) append(b []byte) []byte {
	return append(r.appendHead(slices.Grow(b, int(r.len()))), r.body...)
}

// appendHead writes what is before the message.
func (r *record) appendHead(b []byte) []byte {
	start := len(b)
	b = append(b, r.state)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.body)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, r.seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.at.UnixNano()))
	b = append(b, r.digest[:]...)
	binary.LittleEndian.PutUint32(b[start+5:], checksum(b[start:], r.body))
	return b
}

// checksum is that of a whole record: of its length and of all that follows the
// checksum.
func checksum(head, body []byte) uint32 {
	t := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(crc32.Checksum(head[1:5], t), t, head[9:headLen]), t, body)
}

// errTorn says that a record is not whole.
var errTorn = errors.New("the record is not whole")

// readHead reads what is before the message in the record at off of a file of the
// given size, and how long the message is. What it says is not checked.
func readHead(f io.ReaderAt, off, size int64) (r *record, n int64, err error) {
	var head [headLen]byte
	if size-off < headLen {
		return nil, 0, errTorn
	}
	if _, err := f.ReadAt(head[:], off); err != nil {
		return nil, 0, err
	}
	n = int64(binary.LittleEndian.Uint32(head[1:]))
	if n > maxMessage || n > size-off-headLen {
		return nil, 0, errTorn
	}
	return parseHead(head[:]), n, nil
}

func parseHead(raw []byte) *record {
	return &record{
		state: raw[0], seq: binary.LittleEndian.Uint64(raw[9:]),
		at: time.Unix(0, int64(binary.LittleEndian.Uint64(raw[17:]))), digest: Digest(raw[25:headLen]),
	}
}

// readRecord reads the record at off of a file of the given size.
func readRecord(f io.ReaderAt, off, size int64) (*record, error) {
	// Before anything is made for it: a length is as good as its checksum.
	_, n, err := readHead(f, off, size)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, headLen+n)
	if _, err := f.ReadAt(raw, off); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(raw[5:]) != checksum(raw, raw[headLen:]) || raw[0] != waits && raw[0] != begun && raw[0] != taken {
		return nil, errTorn
	}
	r := parseHead(raw)
	r.body = raw[headLen:]
	return r, nil
}

// magic begins the file.
const magic = "anteroom queue 1\n"

// errForeign says that a file is no queue.
var errForeign = fmt.Errorf("this is not a store: it does not begin with %q", magic)
