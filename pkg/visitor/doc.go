// Package visitor says how often somebody who has no identity here may ask: by
// address, with a bound on what is remembered. Listeners that take whoever
// comes, to enrol or to ask about revocations, each have a [Limiter],
// and those in plain HTTP a [Listener].
package visitor
