package step

import (
	"strings"
	"testing"
	"time"
)

func TestATokenOfOursIsCarriedWhole(t *testing.T) {
	now := time.Now()
	jwt, err := Token("K7Q2MXA-AAAAAAA-BBBBBBB-CCCCCCC-DDDDDDD", "pump-1", "https://gw.example:8444", strings.Repeat("ab", 32), now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	token, device, ok := open(jwt)
	if !ok || token != "K7Q2MXA-AAAAAAA-BBBBBBB-CCCCCCC-DDDDDDD" || device != "pump-1" {
		t.Errorf("%q %q %v", token, device, ok)
	}
	parts := strings.Split(jwt, ".")
	for what, bad := range map[string]string{
		"two parts": parts[0] + "." + parts[1], "no base64": parts[0] + ".***." + parts[2], "no JSON": parts[0] + ".AAAA." + parts[2],
		"too long": jwt + strings.Repeat("A", maxToken), "nothing": "",
	} {
		if _, _, ok := open(bad); ok {
			t.Errorf("%s is read", what)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add("eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJhIiwic3ViIjoiYiJ9.AAAA")
	f.Add("..")
	f.Fuzz(func(t *testing.T, jwt string) {
		if token, _, ok := open(jwt); ok && len(token) > maxToken {
			t.Errorf("a token of %d bytes", len(token))
		}
	})
}
