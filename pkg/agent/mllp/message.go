package mllp

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"time"
)

const (
	// maxHead bounds a message's first segment.
	maxHead = 4 << 10
	// maxID bounds MSH-10: 20 characters until version 2.6, 199 since.
	maxID = 199
)

// A message is what the agent knows of a message: its header, as far as it is
// needed to answer it. Its text is the device's and nobody else's business.
type message struct {
	body   []byte
	sep    byte     // between fields
	fields []string // of MSH: fields[9] is MSH-10; [0] and [1] are MSH-1 and MSH-2
	answer *answer  // if it is one
}

// An answer is a message with MSA.
type answer struct {
	code string // such as AA
	id   string // of the message that is answered
}

var errNoMessage = errors.New("what was sent is no HL7 message")

// parse reads a message's first segments.
func parse(body []byte) (*message, error) {
	head, rest, _ := bytes.Cut(body, []byte{cr})
	if len(head) < len("MSH|^~\\&") || len(head) > maxHead || !bytes.HasPrefix(head, []byte("MSH")) {
		return nil, errNoMessage
	}
	m := &message{body: body, sep: head[3]}
	if !delimiter(m.sep) {
		return nil, errNoMessage
	}
	m.fields = append([]string{string(m.sep)}, strings.Split(string(head[4:]), string(m.sep))...)
	for _, b := range head {
		if b < ' ' || b == 0x7f {
			return nil, errNoMessage
		}
	}
	// MSH-2 is four characters, or five since version 2.7, each for one purpose.
	enc := m.field(2)
	if len(enc) != 4 && len(enc) != 5 {
		return nil, errNoMessage
	}
	for i := range len(enc) {
		if !delimiter(enc[i]) || enc[i] == m.sep || strings.IndexByte(enc, enc[i]) != i {
			return nil, errNoMessage
		}
	}
	if bytes.HasPrefix(rest, []byte{'M', 'S', 'A', m.sep}) {
		seg, _, _ := bytes.Cut(rest[4:], []byte{cr})
		parts := strings.Split(string(seg), string(m.sep))
		if len(parts) < 2 || len(seg) > maxHead {
			return nil, errNoMessage
		}
		m.answer = &answer{parts[0], parts[1]}
	}
	return m, nil
}

// delimiter reports whether a character may stand between parts of a message.
func delimiter(b byte) bool {
	return b > ' ' && b <= '~' && !(b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z')
}

// field returns MSH-n, or "".
func (m *message) field(n int) string {
	if n > len(m.fields) {
		return ""
	}
	return m.fields[n-1]
}

// id returns MSH-10, or "" if it is none that an answer could name.
func (m *message) id() string {
	id := m.field(10)
	if len(id) > maxID || strings.ContainsAny(id, m.field(2)) {
		return ""
	}
	return id
}

// enhanced reports whether the sender asks for answers by MSH-15 and MSH-16
// (HL7 chapter 2, acknowledgment processing rules).
func (m *message) enhanced() bool { return m.field(15) != "" || m.field(16) != "" }

// wants reports whether a field that asks for answers (AL, NE, ER or SU) asks for
// one that is good, or bad.
func wants(field string, good bool) bool {
	switch field {
	case "AL":
		return true
	case "SU":
		return good
	case "ER":
		return !good
	}
	return false
}

// reply writes an answer of the agent's to a message: MSA and, where the version
// has it in this form, ERR with a code of table 0357.
func (m *message) reply(code, errCode, text string, now time.Time) []byte {
	sep := string(m.sep)
	enc := m.field(2)
	component := enc[:1]
	trigger := ""
	if parts := strings.Split(m.field(9), component); len(parts) > 1 {
		trigger = component + parts[1]
	}
	version := m.field(12)
	out := strings.Join([]string{"MSH" + sep + enc, m.field(5), m.field(6), m.field(3), m.field(4), now.UTC().Format("20060102150405") + "+0000", "",
		"ACK" + trigger, rand.Text()[:20], m.field(11), version}, sep) + "\r"
	out += strings.Join([]string{"MSA", code, m.id()}, sep)
	if text != "" {
		out += sep + text
	}
	out += "\r"
	if number, _, _ := strings.Cut(version, component); errCode != "" && number >= "2.5" {
		out += strings.Join([]string{"ERR", "", "", errCode + component + component + "HL70357", "E", "", "", text}, sep) + "\r"
	}
	return []byte(out)
}
