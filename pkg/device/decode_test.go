package device

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// filled returns a record with something in every field that rests in the store.
func filled(t testing.TB) *Record {
	t.Helper()
	r := new(Record)
	fill(t, reflect.ValueOf(r).Elem(), "x")
	r.ID, r.Patients = "pump-1", nil
	return r
}

// fill sets a value and all in it to something that is not zero.
func fill(t testing.TB, v reflect.Value, name string) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Date(2024, 2, 29, 23, 59, 59, 123456700, time.UTC)))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), name)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), strings.ToLower(v.Type().Field(i).Name))
		}
	case v.Kind() == reflect.String:
		v.SetString(name + "-é")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.Kind() == reflect.Float64:
		v.SetFloat(9.8)
	case v.Kind() == reflect.Uint64:
		v.SetUint(9_999_999_999_999_999_999)
	case v.Kind() == reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"bed": "12", "cmms": ""}))
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(t, v.Index(i), fmt.Sprint(i))
		}
	default:
		t.Fatalf("%s: a %s, which this test does not know", name, v.Type())
	}
}

// Each field that a record has, and each that it leaves out, is read the short
// way; a field that is added to the record and not to the decoder fails here.
func TestWhatTheRegistryWritesIsReadTheShortWay(t *testing.T) {
	records := []*Record{filled(t), {ID: "pump-1", Status: Active}, pump("pump-1", 1, 2, 3), member(7)}
	most := pump("pump-1")
	for i := range maxCertificates {
		most.Certificates = append(most.Certificates, member(i).Certificates...)
	}
	records = append(records, most)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		r := filled(t)
		for v := reflect.ValueOf(r).Elem(); rnd.IntN(8) > 0; {
			if i := rnd.IntN(v.NumField()); v.Type().Field(i).Name != "ID" {
				v.Field(i).SetZero()
			}
		}
		for v := reflect.ValueOf(&r.Posture).Elem(); rnd.IntN(3) > 0; {
			v.Field(rnd.IntN(v.NumField())).SetZero()
		}
		if r.Loan != nil {
			for v := reflect.ValueOf(r.Loan).Elem(); rnd.IntN(3) > 0; {
				v.Field(rnd.IntN(v.NumField())).SetZero()
			}
		}
		for i := range r.Certificates {
			for v := reflect.ValueOf(&r.Certificates[i]).Elem(); rnd.IntN(4) > 0; {
				v.Field(rnd.IntN(v.NumField())).SetZero()
			}
		}
		records = append(records, r)
	}
	d := newDecoder() // one for all: what a record leaves behind must not reach the next
	var read, wanted []*Record
	for _, r := range records {
		value, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := d.written(r.ID, value)
		if !ok {
			t.Fatalf("not read the short way: %s", value)
		}
		want := new(Record)
		if err := json.Unmarshal(value, want); err != nil {
			t.Fatal(err)
		}
		read, wanted = append(read, got), append(wanted, want)
	}
	for i, want := range wanted {
		if !reflect.DeepEqual(read[i], want) {
			t.Fatalf("read\n%+v, want\n%+v", read[i], want)
		}
	}
}

func TestWhatIsWrittenOtherwiseIsReadAllTheSame(t *testing.T) {
	value, err := json.Marshal(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	whole := string(value)
	for what, s := range map[string]string{
		"a space":         strings.Replace(whole, ",", ", ", 1),
		"a later field":   strings.Replace(whole, `,"revision"`, `,"later":[1],"revision"`, 1),
		"an escape":       strings.Replace(whole, `"bed"`, `"b\u0065d"`, 1),
		"another order":   `{"class":"a",` + strings.TrimPrefix(whole, "{"),
		"a field twice":   strings.Replace(whole, `"bed":"12"`, `"bed":"11","bed":"12"`, 1),
		"another zone":    strings.Replace(whole, `Z"`, `+02:00"`, 1),
		"no text":         strings.Replace(whole, `"class":"class-é"`, `"class":null`, 1),
		"bad UTF-8":       strings.Replace(whole, "é", "\xff", 1),
		"no tags":         strings.Replace(whole, `{"bed":"12","cmms":""}`, `{}`, 1),
		"no certificates": whole[:strings.Index(whole, `"certificates":[`)+16] + whole[strings.Index(whole, `],"created_at"`):],
		"a large score":   strings.Replace(whole, "9.8", "1e2", 1),
	} {
		want := new(Record)
		if err := json.Unmarshal([]byte(s), want); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if s == whole {
			t.Fatalf("%s: nothing was changed", what)
		}
		d := newDecoder()
		if _, ok := d.written("pump-1", []byte(s)); ok {
			t.Errorf("%s: read the short way", what)
		}
		if got, err := d.record("pump-1", []byte(s)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read %+v, %v", what, got, err)
		}
	}
}

// What many records say is held once; what is one's alone does not fill the memory
// of a start.
func TestRecordsShareWhatTheySay(t *testing.T) {
	d := newDecoder()
	for i := range 2 * maxShared {
		r := pump(fmt.Sprintf("pump-%d", i))
		r.Location, r.Tags = fmt.Sprint("bed ", i), map[string]string{"bed": fmt.Sprint(i)}
		value, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.record(r.ID, value); err != nil || got.Location != r.Location || !maps.Equal(got.Tags, r.Tags) {
			t.Fatalf("read %+v, %v", got, err)
		}
	}
	if len(d.texts) > maxShared || len(d.tags) > maxShared {
		t.Errorf("%d texts and %d sets of tags are remembered", len(d.texts), len(d.tags))
	}
	value, err := json.Marshal(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	fresh := newDecoder()
	var all []*Record
	if n := testing.AllocsPerRun(100, func() {
		r, err := fresh.record("pump-1", value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}); n > 5 {
		t.Errorf("%v allocations a record", n)
	}
	if reflect.ValueOf(all[0].Tags).Pointer() != reflect.ValueOf(all[1].Tags).Pointer() {
		t.Error("two maps of the same tags")
	}
}

// Whatever a record's bytes are: what is read the short way is what encoding/json
// reads.
func FuzzDecoder(f *testing.F) {
	for _, r := range []*Record{filled(f), member(1), {ID: "pump-1"}} {
		r.ID = "pump-1"
		value, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		got, ok := newDecoder().written("pump-1", value)
		if !ok {
			return
		}
		want := new(Record)
		if err := json.Unmarshal(value, want); err != nil {
			t.Fatalf("%q: read, and encoding/json says %v", value, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: read\n%+v, encoding/json\n%+v", value, got, want)
		}
	})
}
