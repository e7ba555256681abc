package policy

import (
	"context"
	"path/filepath"
	"testing"
	"time"
)

func TestFollowLooksAgainWhenAFileIsSaved(t *testing.T) {
	dir := setDir(t, map[string]string{"a.rego": rules(`allow contains "x" if input.device.id == "a"`)})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	calls := 0
	err := Follow(ctx, dir, Options{}, func(context.Context) {
		switch calls++; calls {
		case 1:
			writeFile(t, dir, "a_test.rego", "package a_test\n") // tests count
		case 2:
			writeFile(t, dir, "a.rego", "broken")
		case 3:
			writeFile(t, filepath.Dir(dir), "other", "of no concern")
			writeFile(t, dir, "README", "neither")
			writeFile(t, dir, "classes/a.yaml", "a: 1\n")
		default:
			cancel()
		}
	})
	if err != nil || calls != 4 {
		t.Errorf("%d calls, %v", calls, err)
	}
}
