//go:build race

package policy

// underRace says that everything takes ten times as long.
const underRace = true
