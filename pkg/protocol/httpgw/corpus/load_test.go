package corpus

import (
	"strings"
	"testing"
)

// least is how many cases the corpus promises.
const least = 150

func TestCorpusLoads(t *testing.T) {
	cases, err := Load("gateway.example", "8443")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d cases", len(cases))
	if len(cases) < least {
		t.Errorf("%d cases, want at least %d", len(cases), least)
	}
}

func TestLoadRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for _, text := range []string{
		"> GET / HTTP/1.1\n",
		"== a\nwhy\n< 200, kept\n",
		"== a\n> GET / HTTP/1.1\n< 200, kept\n",
		"== a\nwhy\n> GET / HTTP/1.1\n",
		"== a\nwhy\n> GET / HTTP/1.1\n< 200, held\n",
		"== a\nwhy\n> GET / HTTP/1.1\n< two, kept\n",
		"== a\nwhy\n> GET / HTTP/1.1\n< 200, kept\n< 200, kept\n",
		"== a\nwhy\n> GET / HTTP/1.1\n< 200, kept\nwhy\n",
		"== a\nwhy\n> GET /\\q HTTP/1.1\n< 200, kept\n",
		"== a\nwhy\n> GET /${a} HTTP/1.1\n< 200, kept\n",
		"== a\nwhy\n> GET /${a*2 HTTP/1.1\n< 200, kept\n",
		"== a\nwhy\n> GET / HTTP/1.1\n@= a\n< 200, kept\n",
	} {
		if _, err := parse("x.txt", text, strings.NewReplacer()); err == nil {
			t.Errorf("accepted:\n%s", text)
		}
	}
}

func TestExpand(t *testing.T) {
	for in, want := range map[string]string{
		`a\r\n\t\\\x00`:     "a\r\n\t\\\x00",
		`${ab*3}c`:          "abababc",
		`${1\n${x*2}\n*2}z`: "1\nxx\n1\nxx\nz",
		`$everything {}`:    "$everything {}",
	} {
		got, err := expand(in)
		if err != nil || string(got) != want {
			t.Errorf("expand(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}
