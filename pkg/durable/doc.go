// Package durable writes files that are whole after a crash or a power cut. What
// a function here was given is on stable storage when it returns nil, and what it
// could not write leaves nothing behind: a file that was there before is as it was.
// Where the directory can not be synced the new file is there, and may be gone after
// a power cut.
//
// [Replace] and [CreateWhole] write beside the name and give the file its name
// when it is whole, so that a reader, too, sees all of it or none; a crash meanwhile
// can leave a file whose name begins with [TempPrefix], which nobody will ask for.
// [Create] writes under the name itself, for media that know no links and for
// several files whose names are made durable together ([SyncDir]).
package durable
