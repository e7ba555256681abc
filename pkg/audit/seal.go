package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
)

// A seal is the line that closes a block, and the entry of the transparency
// log that stands for it. Its bytes, without the line break, are the entry's.
type seal struct {
	Block    uint64 // its index in the log, from 0
	Run      string // the run that wrote it
	Segment  string // name of the segment file, without its ending
	Offset   int64  // where in the segment the block's first line begins
	Bytes    int64  // how long its lines are, line breaks included
	First    uint64 // sequence number of its first record
	Count    uint64 // how many records; never 0
	Root     digest // RFC 6962 tree over its lines
	Previous digest // leaf hash of the seal before; zeros for the first
}

// sealPrefix begins every seal's line, recordPrefix every record's.
const (
	sealPrefix   = `{"block":`
	recordPrefix = `{"seq":`
)

// appendTo appends the seal's line. There is exactly one way to write a seal.
func (s *seal) appendTo(b []byte) []byte {
	b = append(b, sealPrefix...)
	b = strconv.AppendUint(b, s.Block, 10)
	b = append(append(append(b, `,"run":"`...), s.Run...), '"')
	b = append(append(append(b, `,"segment":"`...), s.Segment...), '"')
	b = strconv.AppendInt(append(b, `,"offset":`...), s.Offset, 10)
	b = strconv.AppendInt(append(b, `,"bytes":`...), s.Bytes, 10)
	b = strconv.AppendUint(append(b, `,"first":`...), s.First, 10)
	b = strconv.AppendUint(append(b, `,"count":`...), s.Count, 10)
	b = hex.AppendEncode(append(b, `,"root":"`...), s.Root[:])
	b = hex.AppendEncode(append(b, `","previous":"`...), s.Previous[:])
	return append(b, `"}`...)
}

// last returns the sequence number of the block's last record.
func (s *seal) last() uint64 { return s.First + s.Count - 1 }

var errSeal = errors.New("not a seal")

// parseSeal reads a seal's line. It accepts what appendTo writes and nothing
// else, so that two different lines are never the same seal.
func parseSeal(line []byte) (*seal, error) {
	var j struct {
		Block, First, Count          uint64
		Offset, Bytes                int64
		Run, Segment, Root, Previous string
	}
	if !bytes.HasPrefix(line, []byte(sealPrefix)) || json.Unmarshal(line, &j) != nil {
		return nil, errSeal
	}
	s := &seal{Block: j.Block, Run: j.Run, Segment: j.Segment, Offset: j.Offset, Bytes: j.Bytes, First: j.First, Count: j.Count}
	root, err1 := hex.DecodeString(j.Root)
	previous, err2 := hex.DecodeString(j.Previous)
	if err1 != nil || err2 != nil || len(root) != len(s.Root) || len(previous) != len(s.Previous) {
		return nil, errSeal
	}
	copy(s.Root[:], root)
	copy(s.Previous[:], previous)
	if s.Count == 0 || s.First == 0 || s.First+s.Count < s.First || s.Offset < 0 || s.Bytes <= 0 || !bytes.Equal(s.appendTo(nil), line) {
		return nil, errSeal
	}
	return s, nil
}

// recordSeq returns the sequence number a record's line begins with, and
// whether the line has the outer form of a record.
func recordSeq(line []byte) (uint64, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(recordPrefix))
	if !ok || len(rest) < 3 || rest[len(rest)-1] != '}' {
		return 0, false
	}
	n, i := uint64(0), 0
	for ; i < len(rest) && rest[i] >= '0' && rest[i] <= '9'; i++ {
		if i > 18 { // 19 digits may not fit
			return 0, false
		}
		n = n*10 + uint64(rest[i]-'0')
	}
	return n, i > 0 && rest[0] != '0' && (rest[i] == ',' || rest[i] == '}')
}

// segmentName returns the name of the segment whose first record is seq. Names
// sort as their numbers do.
func segmentName(seq uint64) string {
	s := strconv.FormatUint(seq, 10)
	return "00000000000000000000"[len(s):] + s
}

// segmentSeq is the inverse of segmentName.
func segmentSeq(name string) (uint64, bool) {
	n, err := strconv.ParseUint(name, 10, 64)
	return n, err == nil && n > 0 && segmentName(n) == name
}
