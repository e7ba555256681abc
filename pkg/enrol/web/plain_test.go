package web

import (
	"encoding/json"
	"testing"
)

func TestOneObjectWithTheTextsAndNothingElse(t *testing.T) {
	for body, good := range map[string]bool{
		`{"token": "a", "csr": "b"}`:               true,
		` { "csr" : "b" , "token" : "a" } `:        true,
		`{"token": "a"}`:                           false,
		`{"token": "a", "csr": "b", "token": "c"}`: false,
		`{"token": "a", "csr": "b", "id": "c"}`:    false,
		`{"Token": "a", "csr": "b"}`:               false,
		`{"token": "a", "csr": null}`:              false,
		`{"token": "a", "csr": ["b"]}`:             false,
		`{"token": "a", "csr": 1}`:                 false,
		`{"token": "a", "csr": "b"} {}`:            false,
		`{"token": "a", "csr": "b"`:                false,
		`["token", "a"]`:                           false,
		`"token"`:                                  false,
		``:                                         false,
	} {
		out, err := (&Request{Body: []byte(body)}).Strings("token", "csr")
		if (err == nil) != good || good && (out["token"] != "a" || out["csr"] != "b") {
			t.Errorf("%s: %v %v", body, out, err)
		}
	}
}

func FuzzStrings(f *testing.F) {
	f.Add([]byte(`{"token": "a", "csr": "b"}`))
	f.Add([]byte(`{"token": "\ud800", "csr": {}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := (&Request{Body: body}).Strings("token", "csr")
		if err != nil {
			return
		}
		// What is taken is what everybody would take.
		var other map[string]string
		if err := json.Unmarshal(body, &other); err != nil || len(other) != 2 || other["token"] != out["token"] || other["csr"] != out["csr"] {
			t.Errorf("%q: %v, and others take %v, %v", body, out, other, err)
		}
	})
}
