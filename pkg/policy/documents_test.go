package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// What is remembered is what OPA's own cache would remember, whatever is put,
// forgotten and asked.
func TestDocumentsDoAsOPAsCache(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	ours := newDocuments()
	for range 50 {
		ours.reset()
		theirs := topdown.NewVirtualCache()
		depth := 1
		for range 400 {
			n := rnd.IntN(2 * maxDocuments)
			ref := documentRef(n)
			switch rnd.IntN(12) {
			case 0:
				ours.Push()
				theirs.Push()
				depth++
			case 1:
				if depth > 1 {
					ours.Pop()
					theirs.Pop()
					depth--
				}
			case 2, 3, 4, 5:
				var v *ast.Term // undefined
				if n%5 > 0 {
					v = ast.IntNumberTerm(rnd.IntN(5))
				}
				// The slice is the caller's, which uses it again.
				mine := slices.Clone(ref)
				ours.Put(mine, v)
				clear(mine)
				theirs.Put(ref, v)
			default:
				got, undefined := ours.Get(ref)
				want, wantUndefined := theirs.Get(ref)
				if fmt.Sprint(got) != fmt.Sprint(want) || undefined != wantUndefined {
					t.Fatalf("%v: got %v, %v, want %v, %v", ref, got, undefined, want, wantUndefined)
				}
			}
		}
		if got, want := refNames(ours.Keys()), refNames(theirs.Keys()); !slices.Equal(got, want) {
			t.Fatalf("the keys are %v\nwant %v", got, want)
		}
	}
}

func documentRef(n int) ast.Ref {
	ref := ast.Ref{ast.DefaultRootDocument, ast.StringTerm("a")}
	if n%3 == 0 {
		ref = append(ref, ast.IntNumberTerm(n%7))
	}
	return append(ref, ast.StringTerm(fmt.Sprint("r", n)))
}

func refNames(refs []ast.Ref) []string {
	var out []string
	for _, r := range refs {
		out = append(out, r.String())
	}
	slices.Sort(out)
	return out
}

// What was found in one evaluation is not there in the next.
func TestDocumentsForget(t *testing.T) {
	d := newDocuments()
	for i := range 2 * maxDocuments {
		d.Put(documentRef(i), ast.BooleanTerm(true))
	}
	d.Push()
	d.Put(documentRef(1), ast.BooleanTerm(false))
	d.reset()
	for i := range 2 * maxDocuments {
		if v, undefined := d.Get(documentRef(i)); v != nil || undefined {
			t.Fatalf("document %d is still there", i)
		}
	}
	if keys := d.Keys(); len(keys) > 0 {
		t.Errorf("there are still keys: %v", keys)
	}
}
