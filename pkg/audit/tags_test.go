package audit

import "testing"

// TestARecordIsFoundByItsTags: by whole tags, and by those of a decision.
func TestARecordIsFoundByItsTags(t *testing.T) {
	dir := t.TempDir()
	l := must(t, testConfig(dir))
	for _, tags := range [][]string{nil, {"drill"}, {"drill", "ward-3"}, {"drills"}} {
		r := sample()
		r.Decision.Tags = tags
		if err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	stray := sample()
	stray.Error = "drill"
	if err := l.Append(t.Context(), stray); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	for tag, want := range map[string]int{"drill": 2, "ward-3": 1, "drills": 1, "dril": 0} {
		got := collect(t, dir, ReadOptions{Filter: Filter{Tag: tag}})
		if len(got) != want {
			t.Errorf("%s: %d records, want %d", tag, len(got), want)
		}
	}
}
