// Package cli is the command tree: a file a command. A command builds a request,
// calls one function, and prints one result.
//
// Results go to standard output, as text or with --json as JSON; what went wrong
// goes to standard error as one line. The exit status is 0 if the command did
// what it was asked to, 1 if it could not, 2 if it was not understood.
package cli
