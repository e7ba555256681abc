// Package tpm has keys in a TPM 2.0 that never leave it.
//
// A [TPM] is named by its device, such as /dev/tpmrm0, which is the one that several
// programs can use at a time, or by the socket of one in software. A key is made in
// it, below the storage key of the owner's hierarchy, and what rests on disk is a
// file that only this TPM can use: the "TSS2 PRIVATE KEY" that OpenSSL's providers
// for a TPM read and write too. Nothing is made persistent in the TPM, so that a box
// that is set up anew leaves nothing behind; who clears the TPM ends all of its
// keys.
//
// A [Key] is a [crypto.Signer] for ECDSA with P-256 and SHA-256, and safe for
// concurrent use. The last key that was used stays loaded if the kernel looks after
// the TPM; if that was reset meanwhile, the key is loaded again.
package tpm
