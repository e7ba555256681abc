package fhir

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestPolicyDataMayNameTheTypesThatAreKnownHere: the schema of the shipped set lists
// the types of resource, so that a misspelt one does not load; it lists these.
func TestPolicyDataMayNameTheTypesThatAreKnownHere(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "policies", "schemas", "data", "schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Definitions struct {
			Resource struct {
				Enum []string `json:"enum"`
			} `json:"resource"`
		} `json:"definitions"`
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	if want := slices.Sorted(maps.Keys(resources)); !slices.Equal(schema.Definitions.Resource.Enum, want) {
		t.Errorf("the schema lists\n%q\nand known are\n%q", schema.Definitions.Resource.Enum, want)
	}
}
