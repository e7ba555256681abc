// Package queue keeps messages on disk, in order, until somebody has taken them.
//
// A [Queue] is one file that grows at its end. A message is there, synced, before
// [Queue.Put] returns, so that whoever put it may be told that it will arrive; and
// that it was taken is synced before [Queue.Done] returns, by one byte in place,
// which takes no room on a disk that is full. A crash leaves at most a last record
// that is not whole: nobody was told of it, and it is cut off when the file is
// opened, into a file of its own. The file is written anew, and then renamed, when
// most of it was taken.
//
// A disk that is full, or a limit, refuses the next message and keeps the others.
// A sync that fails is never tried again, because nobody knows what it lost
// (fsync(2), and what PostgreSQL learned of it in 2018): the queue takes nothing
// more until it is opened again.
//
// The same message put twice within a while is found by its digest and not kept
// twice: a sender that did not hear the first answer sends again. A queue is safe
// for concurrent use; one process has it open.
package queue
