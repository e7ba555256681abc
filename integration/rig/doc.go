// Package rig runs the real anteroom program for tests: it builds the program
// once, and once more with the race detector if the tests have it, sets up a
// hospital in a directory of the test's own with the same commands an operator
// types, and starts, stops and kills the gateway as a process.
//
// Everything listens on loopback on free ports and is ended by its own process
// id when the test is over.
package rig
