package fhir

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestStrictJSON(t *testing.T) {
	for _, good := range []string{
		`{}`, ` { } `, "\t{\r\n}\n", `[]`, `[1,2]`, `"x"`, `0`, `-0`, `-1.50`, `1e5`, `1E-5`, `0.0e+0`, `true`, `false`, `null`,
		`{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}`,
		`{"_a":1,"a":2}`,
		`"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00"`,
		`"äöü 漢字 😀"`,
		`"` + "\u2028\u007f" + `"`,
		`{"":1}`,
		strings.Repeat("[", 64) + strings.Repeat("]", 64),
		strings.Repeat("1", maxNumber),
		`{"` + strings.Repeat("a", maxName) + `":1}`,
	} {
		if _, f := readJSON([]byte(good), limits()); f != nil {
			t.Errorf("%.80s: %v", good, f)
		}
	}
	for _, c := range []struct {
		bad    string
		status int
	}{
		{``, 400}, {` `, 400}, {`{`, 400}, {`{"a"`, 400}, {`{"a":`, 400}, {`{"a":1`, 400}, {`{"a":1,`, 400}, {`[1`, 400}, {`[1,`, 400}, {`"`, 400}, {`"\`, 400},
		{`{"a":1}{}`, 400}, {`{"a":1} x`, 400}, {`1 2`, 400}, {"{}\x00", 400}, {"\xef\xbb\xbf{}", 400}, {"\xff\xfe{\x00}\x00", 400},
		{`{"a":1,}`, 400}, {`[1,]`, 400}, {`[,1]`, 400}, {`{,}`, 400}, {`{"a" 1}`, 400}, {`{a:1}`, 400}, {`{'a':1}`, 400}, {`{"a":1 "b":2}`, 400}, {`[1 2]`, 400},
		{`{"a":1,"a":1}`, 400}, {`{"a":1,"b":{"c":1,"c":2}}`, 400}, {`[[{"c":1,"d":1,"c":2}]]`, 400},
		{`{"a":1,"\u0061":2}`, 400}, {`{"\u0061":2}`, 400}, {`{"a":1,"A":2}`, 400}, {`{"resourceType":1,"resourcetype":2}`, 400},
		{"{\"re\u017fourceType\":1}", 400}, {"{\"\u212aey\":1}", 400}, {"{\"a\\\\b\":1}", 400}, {"{\"a\tb\":1}", 400},
		{"\"\x01\"", 400}, {"\"\n\"", 400}, {`"\u0000"`, 400}, {`"\x41"`, 400}, {`"\u00g1"`, 400}, {`"\u004"`, 400}, {`"\u`, 400},
		{`"\ud83d"`, 400}, {`"\ude00"`, 400}, {`"\ud83dx"`, 400}, {`"\ud83d\u0041"`, 400}, {`"\ud83d\n"`, 400}, {`"\ud83d\ud83d"`, 400}, {`"\ude00\ud83d"`, 400},
		{"\"\xff\"", 400}, {"\"\xc0\x80\"", 400}, {"\"\xed\xa0\x80\"", 400}, {"\"\xe4\xb8\"", 400}, {"\"\xf4\x90\x80\x80\"", 400},
		{`01`, 400}, {`-`, 400}, {`-a`, 400}, {`1.`, 400}, {`.5`, 400}, {`1e`, 400}, {`1e+`, 400}, {`+1`, 400}, {`0x10`, 400}, {`1_000`, 400}, {`1e400`, 400}, {`-1e999`, 400},
		{`NaN`, 400}, {`Infinity`, 400}, {`-Infinity`, 400}, {`undefined`, 400}, {`tru`, 400}, {`True`, 400}, {`nul`, 400}, {`truefalse`, 400},
		{`{/*x*/}`, 400}, {"{}//", 400}, {`\{}`, 400},
		{strings.Repeat("[", 65) + strings.Repeat("]", 65), 413},
		{strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), 413},
		{strings.Repeat("[", 1<<20), 413},
		{strings.Repeat("1", maxNumber+1), 413},
		{`{"` + strings.Repeat("a", maxName+1) + `":1}`, 413},
		{"[" + strings.Repeat("1,", 1<<18) + "1]", 413},
	} {
		_, f := readJSON([]byte(c.bad), limits())
		if f == nil {
			t.Errorf("%.80q was read", c.bad)
		} else if f.Status != c.status || !strings.HasPrefix(f.Why, "the JSON body ") {
			t.Errorf("%.80q: %d %q", c.bad, f.Status, f.Why)
		}
	}
}

// Names are found twice wherever the second one is, in small objects and large.
func TestTwiceAtAnyDistance(t *testing.T) {
	for _, n := range []int{1, 2, fewNames - 1, fewNames, fewNames + 1, 3 * fewNames} {
		for first := range n {
			var b strings.Builder
			b.WriteByte('{')
			for i := range n {
				fmt.Fprintf(&b, `"k%d":{"k%d":0},`, i, i)
			}
			whole := b.String() + `"last":0}`
			if _, f := readJSON([]byte(whole), limits()); f != nil {
				t.Fatalf("%d: %v", n, f)
			}
			for _, k := range []string{"k", "K"} {
				if _, f := readJSON(fmt.Appendf(nil, `%s"%s%d":0}`, b.String(), k, first), limits()); f == nil {
					t.Fatalf("member %d of %d was there twice", first, n)
				}
			}
		}
	}
}

func limits() *Limits {
	l := Limits{}.filled()
	return &l
}

// value returns a node as encoding/json would.
func (d *document) value(t testing.TB, i int) any {
	switch d.kind(i) {
	case kindObject:
		m := map[string]any{}
		d.kids(i, func(k int) { m[string(d.data[d.nodes[k].name:d.nodes[k].nameEnd])] = d.value(t, k) })
		return m
	case kindArray:
		l := []any{}
		d.kids(i, func(k int) { l = append(l, d.value(t, k)) })
		return l
	case kindString:
		return d.text(i)
	case kindNumber:
		return json.Number(d.data[d.nodes[i].at:d.nodes[i].end])
	case kindTrue:
		return true
	case kindFalse:
		return false
	case kindNull:
		return nil
	}
	t.Fatalf("node %d is of no kind", i)
	return nil
}

// agree checks that what the strict reader accepts is read alike by
// encoding/json, and that writing it again changes nothing.
func agree(t testing.TB, data []byte) {
	d, f := readJSON(data, limits())
	if f != nil {
		return
	}
	mine := d.value(t, 0)
	if theirs := decode(t, data); !reflect.DeepEqual(mine, theirs) {
		t.Fatalf("%q: read as %v, by encoding/json as %v", data, mine, theirs)
	}
	again := d.appendNode(nil, 0)
	if theirs := decode(t, again); !reflect.DeepEqual(mine, theirs) {
		t.Fatalf("%q: written as %q", data, again)
	}
	d2, f := readJSON(again, limits())
	if f != nil {
		t.Fatalf("%q: written as %q, which is refused: %v", data, again, f)
	}
	if twice := d2.appendNode(nil, 0); !bytes.Equal(twice, again) {
		t.Fatalf("%q: written as %q and then as %q", data, again, twice)
	}
}

func decode(t testing.TB, data []byte) any {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%q was accepted, encoding/json refuses it: %v", data, err)
	}
	if dec.More() {
		t.Fatalf("%q was accepted and has more than one value", data)
	}
	return v
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-2.5e3,"x\u00e9\ud83d\ude00\n",true,false,null,{}],"_b":{"":[]}}`, `{"a":1,"a":2}`, `{"a":1,"A":2}`, `"\ud800"`, "\"\xff\"", `[[[[]]]]`, `1e999`, ` 01`, `{"a":1}x`,
	} {
		f.Add([]byte(s))
	}
	for _, name := range samples(f) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) { agree(t, data) })
}

// samples lists the resources in testdata.
func samples(t testing.TB) []string {
	names, err := filepath.Glob("testdata/*.json")
	if err != nil || len(names) == 0 {
		t.Fatal("no testdata", err)
	}
	return names
}

func TestSamplesAreReadAlike(t *testing.T) {
	for _, name := range samples(t) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, f := readJSON(b, limits()); f != nil {
			t.Errorf("%s: %v", name, f)
		}
		agree(t, b)
	}
}
