// Package backup is the form of a backup: one encrypted file that holds the state
// of a gateway at one moment.
//
// An archive is a tar archive, gzipped and encrypted with age (age-encryption.org/v1),
// to a passphrase or to public keys whose private halves need not be anywhere near
// the gateway. Whoever has age, gzip and tar can read one without this program. Its
// first entry is the [Manifest], its last says how many there were: what was cut off
// has no such end, and encryption would not let it pass either.
//
//	manifest.json        whose state this is, and of when
//	config/…             the configuration, as it was written
//	policies/…           the policy set in force, if it was a directory
//	state/…, audit/…     what rests in the state directory and the audit log's
//	end.json             how many entries there were
//
// A [Writer] writes the plain archive and a [Sealer] encrypts one. [Open] decrypts,
// and [Extract] writes what is wanted of it below directories of the caller's,
// which it makes. Both directions hold a constant amount of memory, whatever the
// archive's size.
//
// An archive that was encrypted to a public key says nothing of who made it:
// everybody may have that key. Extract therefore trusts nothing in it: a path that
// leads out, a link, a device, a name that is there twice are refused, and it is
// the caller's to ask whether the CA inside is the one that was expected.
package backup
