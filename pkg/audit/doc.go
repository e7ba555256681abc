// Package audit keeps the gateway's record: one JSON line for every
// transaction that was decided and for every event that matters to security,
// numbered without gaps, and sealed so that nobody can alter, remove, reorder
// or cut off any of them unseen.
//
// # The life of a record
//
// [Log.Append] copies the record into a bounded buffer and returns: that is all
// a request pays for. A writer behind it takes whatever is there, turns it into
// JSON (identifiers of patients become keyed pseudonyms here), hashes it,
// writes it to the current segment file and syncs, at least every FlushTime;
// [Log.Flush] asks for it now and waits. After BlockRecords records or
// BlockTime the writer seals a block: a line in the same file that holds the
// root of a Merkle tree (RFC 6962 §2.1) over the block's lines. Once that line
// is durable it becomes an entry of a transparency log (C2SP tlog-tiles), whose
// signed checkpoint says how many blocks there are and what they hold.
//
// A full buffer makes Append wait; nothing is ever dropped. A disk that is full
// or broken makes Append fail with [ErrUnavailable], so that nothing is allowed
// that is not recorded; the writer keeps what it had accepted, tries again by
// itself, and records the outage when it is over.
//
// # A directory
//
//	lock                       held by the one process that writes
//	log.key, log.pub           the checkpoint's signing key (0600) and its public half
//	pseudonym.key              the key of pseudonyms (0600)
//	records/<first seq>.jsonl  segments: records and the seals of their blocks
//	log/                       the transparency log: checkpoint, tiles, entries
//	torn/                      what recovery cut off after a crash, kept as evidence
//
// # After a crash
//
// [Open] finds the last whole record, moves anything torn behind it aside,
// seals what was not sealed, hands the log what it had not got, and writes an
// "audit.recovered" record that says what was found. Every run of the program
// marks its records with its own id and ends with "audit.closed", so that the
// place where records may have been lost is visible for ever.
//
// # Checking
//
// [Verify] reads what rests on disk, also while a gateway writes to it, and
// trusts only the public key it is given. [Read] returns records, oldest first,
// and can follow new ones.
//
// The exact forms, and how to check them with other tools, are in
// docs/audit.md.
package audit
