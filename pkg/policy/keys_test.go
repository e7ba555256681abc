package policy

import (
	"slices"
	"testing"
)

func TestKeysNameTheClasses(t *testing.T) {
	set, err := Load(t.Context(), "../../policies", Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ct-scanner", "glucose-meter", "infusion-pump", "patient-monitor", "ventilator", "wearable-gateway"}
	if got := set.Keys("classes"); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := set.Keys("classes", "nobody"); got != nil {
		t.Errorf("got %v", got)
	}
}
