package audit

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// everything returns every byte that rests in a log's directory.
func everything(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// patient is an identifier that no hash can spell.
const patient = "nobody-else"

// ofPatient is sample's record with that patient.
func ofPatient() *Record {
	r := sample()
	r.Transaction.Facts = append(r.Transaction.Facts, protocol.Field{
		Name: "more", Value: protocol.Object(protocol.Field{Name: "patient", Value: protocol.Sensitive("Patient/" + patient)}),
	})
	return r
}

// TestPatientsRestAsPseudonyms: what may name a patient is nowhere in the
// directory, one patient is one pseudonym, so that records can be joined, and
// another key makes another one.
func TestPatientsRestAsPseudonyms(t *testing.T) {
	const each = 2 // sample's own and ours
	pseudonyms := make(map[string]bool)
	for range 2 {
		dir := t.TempDir()
		l := must(t, testConfig(dir))
		for range 3 {
			if err := l.Append(t.Context(), ofPatient()); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, l)
		all := everything(t, dir)
		if strings.Contains(all, patient) {
			t.Error("the patient's identifier rests in the log")
		}
		found := 0
		for rest := all; ; {
			_, after, ok := strings.Cut(rest, pseudonymPrefix)
			if !ok {
				break
			}
			pseudonyms[after[:2*pseudonymBytes]] = true
			found++
			rest = after
		}
		if found != 3*each {
			t.Errorf("%d pseudonyms in 3 records of %d", found, each)
		}
	}
	if len(pseudonyms) != 2*each {
		t.Errorf("%d pseudonyms of %d patients in two logs with a key each", len(pseudonyms), each)
	}
}

// TestPatientsRestInTheClearWhereThatWasChosen shows that the test above looks
// in the right place.
func TestPatientsRestInTheClearWhereThatWasChosen(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.Audit.Identifiers = "clear"
	l := must(t, cfg)
	if err := l.Append(t.Context(), ofPatient()); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if !strings.Contains(everything(t, dir), patient) {
		t.Error("the patient's identifier is not in the log")
	}
}
