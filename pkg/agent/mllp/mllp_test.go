package mllp

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const oru = "MSH|^~\\&|MON|ICU|HIS|HOSP|20260101120000||ORU^R01^ORU_R01|M123|P|2.5.1|||AL|NE\rPID|1||123\r"

func TestBlocks(t *testing.T) {
	text := string(frame([]byte("one"))) + "\r\n" + string(frame([]byte("two"))) + string(frame(nil))
	for what, src := range map[string]io.Reader{"at once": strings.NewReader(text), "by bytes": iotest.OneByteReader(strings.NewReader(text))} {
		r := bufio.NewReaderSize(src, 16)
		for _, want := range []string{"one", "two", ""} {
			if got, err := readFrame(r, 10, nil); string(got) != want || err != nil {
				t.Errorf("%s: %q %v, want %q", what, got, err, want)
			}
		}
		if _, err := readFrame(r, 10, nil); err != io.EOF {
			t.Errorf("%s: at the end: %v", what, err)
		}
	}
	for what, in := range map[string]string{
		"no block": "MSH|", "a block in a block": "\x0ba\x0bb\x1c\r", "no CR": "\x0ba\x1cx", "too long": "\x0b12345678901\x1c\r",
		"half": "\x0babc", "half an end": "\x0babc\x1c", "long before its end": "\x0b" + strings.Repeat("x", 100),
	} {
		if got, err := readFrame(bufio.NewReaderSize(strings.NewReader(in), 16), 10, nil); err == nil || err == io.EOF {
			t.Errorf("%s is taken as %q (%v)", what, got, err)
		}
	}
}

func TestWhatIsKnownOfAMessage(t *testing.T) {
	m, err := parse([]byte(oru))
	if err != nil {
		t.Fatal(err)
	}
	if m.id() != "M123" || !m.enhanced() || m.field(15) != "AL" || m.field(16) != "NE" || m.field(99) != "" || m.answer != nil {
		t.Errorf("%q", m.fields)
	}
	if m, err := parse([]byte("MSH#*~\\&#A#B#C#D###ACK#1#P#2.3\rMSA#AE#M123#no\r")); err != nil || m.enhanced() || *m.answer != (answer{"AE", "M123"}) {
		t.Errorf("%+v %v", m, err)
	}
	for what, in := range map[string]string{
		"nothing": "", "another segment": "PID|1||123456\r", "a control character": "MSH|^~\\&|\x00|b\r", "a letter between fields": "MSHA^~\\&AbAc\r",
		"a long header": "MSH|^~\\&|" + strings.Repeat("x", maxHead) + "\r", "MSA without an id": "MSH|^~\\&|a|b\rMSA|AA\r", "only LF": "MSH|^~\\&|a|b\nPID|1\n",
		"a delimiter for two purposes": "MSH|^~\\^|a|b\r", "a delimiter that is the separator": "MSH|^~\\||a|b\r", "two delimiters": "MSH|^~|a|b|c\r",
	} {
		if _, err := parse([]byte(in)); err == nil {
			t.Errorf("%s is a message", what)
		}
	}
	for _, id := range []string{"", strings.Repeat("x", 200), "a^b", "a&b"} {
		if m, err := parse([]byte(strings.Replace(oru, "M123", id, 1))); err != nil || m.id() != "" {
			t.Errorf("the id %.10q is taken", id)
		}
	}
}

func TestRepliesAreToTheMessage(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	m, err := parse([]byte(oru))
	if err != nil {
		t.Fatal(err)
	}
	got := m.reply("CE", "207", "the store is full", now)
	a, err := parse(got)
	if err != nil || *a.answer != (answer{"CE", "M123"}) {
		t.Fatalf("%q %v", got, err)
	}
	if a.field(3) != "HIS" || a.field(5) != "MON" || a.field(9) != "ACK^R01" || a.field(11) != "P" || a.field(12) != "2.5.1" || a.id() == "" {
		t.Errorf("%q", got)
	}
	if !bytes.HasSuffix(got, []byte("\rMSA|CE|M123|the store is full\rERR|||207^^HL70357|E|||the store is full\r")) {
		t.Errorf("%q", got)
	}
	old, err := parse([]byte(strings.Replace(oru, "2.5.1", "2.3", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := old.reply("AE", "207", "x", now); bytes.Contains(got, []byte("ERR")) {
		t.Errorf("%q", got)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(oru))
	f.Add([]byte("MSH\r0000"))
	f.Add([]byte("MSH|^~\\&|A|B|C|D|||ACK|1|P|2.3\rMSA|AA|2\r"))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parse(body)
		if err != nil {
			return
		}
		again, err := parse(m.reply("AE", "207", "no", time.Unix(0, 0)))
		if err != nil || again.answer == nil || again.answer.code != "AE" || again.answer.id != m.id() {
			t.Errorf("%q is answered with what is no answer: %v", body, err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x0bMSH|\x1c\r\n\x0b\x1c\r"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(in), 16)
		for {
			body, err := readFrame(r, 64, nil)
			if err != nil {
				return
			}
			if len(body) > 64 || !bytes.Contains(in, frame(body)) {
				t.Errorf("%q is read from %q", body, in)
			}
		}
	})
}
