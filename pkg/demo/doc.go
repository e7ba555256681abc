// Package demo is a whole hospital in one process: a CA, six enrolled devices, a
// gateway, a FHIR backend over TLS, simulated devices that work all day, and four
// attackers. Nothing in it is a special case of the gateway: it is the gateway
// that anteroom run runs, and devices and attackers reach it over TLS like any
// other.
package demo
