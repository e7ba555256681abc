package http1

import "testing"

func TestAnEscapeIsAPercentAndTwoDigits(t *testing.T) {
	for s, want := range map[string]int{
		"%00": 0, "%7C": '|', "%7c": '|', "%fF": 0xff, "%41x": 'A',
		"%": -1, "%4": -1, "%4g": -1, "%+1": -1, "%-1": -1, "% 1": -1, "%_1": -1, "%0x": -1, "%é": -1,
	} {
		c, ok := Unescape(s, 0)
		if ok != (want >= 0) || ok && int(c) != want {
			t.Errorf("%q: %#x, %v", s, c, ok)
		}
		if c, ok := Unescape("a"+s, 1); ok != (want >= 0) || ok && int(c) != want {
			t.Errorf("%q behind another: %#x, %v", s, c, ok)
		}
	}
}

func TestControlCharactersBeyondASCII(t *testing.T) {
	for s, want := range map[string]bool{
		"": false, "plain": false, "\u0080": true, "a\u009bm": true, "\u009f": true, "\u00a0": false, "é": false, "\u00c2": false,
		"\u00a0 then \u0085": true, "\u00bf\u00bf": false, "\u0402": false,
	} {
		if HasC1(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}
