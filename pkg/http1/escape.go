package http1

import (
	"strconv"
	"strings"
)

// Unescape decodes the percent escape that begins at s[i] (RFC 3986 §2.1). It is
// not ok unless two hexadecimal digits follow.
func Unescape(s string, i int) (c byte, ok bool) {
	if len(s) < i+3 {
		return 0, false
	}
	v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
	return byte(v), err == nil
}

// HasC1 reports whether valid UTF-8 holds a control character beyond ASCII
// (U+0080 to U+009F), which terminals obey as they do the others.
func HasC1(s string) bool {
	for i := strings.IndexByte(s, 0xc2); i >= 0; {
		if s[i+1] < 0xa0 {
			return true
		}
		next := strings.IndexByte(s[i+1:], 0xc2)
		if next < 0 {
			return false
		}
		i += 1 + next
	}
	return false
}
