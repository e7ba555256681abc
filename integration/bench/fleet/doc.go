// Package fleet is a crowd of devices: the load generator of the benchmark for
// all that wrk can not do, such as resuming sessions, staying idle by the
// thousand, streaming gigabytes, sending at a constant rate, or coming back all
// at once.
//
// It runs as a process of its own ([Main]), pinned to the load's core, so that
// what it uses is never mistaken for what a gateway uses. A [Plan] says what it
// does. It speaks with whoever started it in lines: [Event]s in JSON on its
// standard output, single words on its standard input. Every mode gets ready
// first, which is not measured, says so, and goes on when it is told "go"; it
// ends when it is done, or when its standard input does.
//
// Devices use source addresses 127.0.x.y, so that a client's ports are no limit,
// and speak TLS 1.3 with the group the plan names, the same for every gateway.
package fleet
