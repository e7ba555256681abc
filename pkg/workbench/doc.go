// Package workbench tries policies on what has happened. It makes the questions
// of recorded decisions again (past.go), has a candidate set decide all of them
// (replay.go), explains one of them (explain.go), and finds out what a class of
// devices is really used for (suggest.go).
//
// # What a record tells, and what it does not
//
// A record of the audit log holds what a policy saw of the transaction, of the
// session and of the route, and which device it was. It does not hold the
// registry's facts about the device: those are taken from the registry as it is
// now. Where the registry's record has changed since, and where identifiers were
// recorded as pseudonyms, the question made again may differ from the one that
// was asked; [Caveats] says in which of the facts that a set reads. Nothing is
// left out silently: records that could not be used are counted.
//
// The package reads. It decides nothing for any device and changes nothing.
package workbench
