// Package bundle reads and writes policy sets in OPA's bundle format: a gzipped
// tar archive of Rego and data, a .manifest that names its revision, and a
// .signatures.json with one JWT that covers every other file.
//
// It knows nothing of what the files mean; package policy above it compiles
// them. What is read here comes from outside, so everything is bounded before
// it is allocated, and what two readers could understand differently is refused:
// a name that is there twice, a path that leads out, a link, bytes after the
// end. Hashes and signatures are computed by OPA's own code, so that stock OPA
// and this package agree on what is signed.
//
// [Read] makes a [Bundle] of an archive and [Bundle.Write] an archive of a
// bundle, always the same bytes for the same files. [Bundle.Sign] and
// [Bundle.Verify] are the two ends of a signature.
//
// A [History] keeps signed archives on disk, one of them in force. A [Remote]
// asks a bundle server for its bundle and keeps the last good one.
//
// A Bundle is not safe for concurrent change; a History and a Remote are safe
// for concurrent use.
package bundle
