// Package yield keeps what takes its time from holding up what must be quick,
// where there are few processors. Go's scheduler is fair to goroutines that can
// run, but it does two things late that a connected device feels: it looks for
// what has arrived from the network only when nothing else can run, or once in
// 10 ms, and it takes a processor away from a system call that blocks only after
// as long. With one processor to run on, a long computation or an fsync is then a
// pause for every device.
//
// A [Lull] has the network looked at between two pieces of a long work. A [File]
// is made durable by the kernel in the background, while its goroutine waits like
// one that waits for the network.
package yield
