package workbench

import (
	"bytes"
	"strings"
	"testing"
)

// What a device or a policy says cannot change how the rest is seen.
func TestWhatIsShownMovesNoCursorAndTurnsNoLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"Wunddrainage – 5 °C 日本": "Wunddrainage – 5 °C 日本",
		"two\nlines\tand a tab":  "two\nlines\tand a tab",
		"\x1b[31mred\x1b[0m":     `\x1b[31mred\x1b[0m`,
		"\u009b31m":              `\u009b31m`,
		"\r\a\x00\x7f":           `\r\a\x00\x7f`,
		"a\u202ecba\u2066\u200b": `a\u202ecba\u2066\u200b`,
		"\xff\xfe":               `\xff\xfe`,
		"\xf0\x9f":               `\xf0\x9f`,
	} {
		if got := Readable(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestThePageShowsWhatADeviceSaysAsText(t *testing.T) {
	const evil = "</td><img onerror=x>\u202e"
	r := &ReplayReport{Decisions: 1, Changed: 1, Drift: 1, DriftExamples: []string{evil}, Candidate: SetName{evil, evil}, Current: SetName{evil, evil},
		Changes: []Change{{Change: evil, Rule: evil, Class: evil, What: evil, Count: 1, Devices: 1, Examples: []string{evil}}},
		Devices: []DeviceChanges{{Device: evil, Class: evil, Changes: map[string]int{evil: 1}, Total: 1}}}
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	if s := b.String(); strings.Contains(s, "<img") {
		t.Errorf("%s", s)
	}
	if n := strings.Count(b.String(), `&lt;/td&gt;&lt;img onerror=x&gt;\u202e`); n < 8 {
		t.Errorf("shown %d times:\n%s", n, b.String())
	}
}
