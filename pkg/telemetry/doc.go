// Package telemetry is what the gateway says of itself: logs, metrics and
// health. Nothing in it holds an identifier of a patient, and metrics hold none
// of a device either: their labels are names from the configuration and a few
// fixed words, so their number is bounded (invariant 8).
package telemetry
