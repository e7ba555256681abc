package cli

import (
	"io"
	"strings"
	"testing"
)

// endless is rows of a mebibyte that are no devices.
type endless struct{ row, at string }

func (e *endless) Read(b []byte) (int, error) {
	if e.at == "" {
		e.at = e.row
	}
	n := copy(b, e.at)
	e.at = e.at[n:]
	return n, nil
}

// TestAnInventoryIsReadToItsEndOrNotAtAll: what is past the limit is not left out
// without a word.
func TestAnInventoryIsReadToItsEndOrNotAtAll(t *testing.T) {
	rows := &endless{row: "pump-1,pump," + strings.Repeat("x", 1<<20) + "\n"}
	in := &inventory{}
	_, err := in.read(io.MultiReader(strings.NewReader("id,class\n"), rows))
	if err == nil || !strings.Contains(err.Error(), "larger than 256 MiB") {
		t.Errorf("an inventory without end: %v", err)
	}
	got, err := in.read(strings.NewReader("id,class\npump-1,pump\n"))
	if err != nil || len(got) != 1 || got[0].err != nil {
		t.Errorf("one that ends: %+v, %v", got, err)
	}
}
