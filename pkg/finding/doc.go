// Package finding keeps what the gateway found out about devices by itself and a
// person should look at: a certificate that is used from two places at once, a
// clock that is wrong.
//
// A finding is opened once, however often it is seen, and kept in the store, so that
// a restart neither forgets it nor reports it anew. It is over when what was seen is
// not so any more, or when a person accepts it; a place that was accepted is not
// reported again. Findings decide nothing: they are not in the device's record, whose
// every change ends remembered decisions, and no policy sees them.
//
// A [Book] is safe for concurrent use.
package finding
