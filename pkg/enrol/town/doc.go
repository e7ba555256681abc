// Package town is what all tests of this room share: a CA and the shipped
// policies. Decrypting a CA's key is slow on purpose and the policies take a
// while to compile, so a test process makes them once, when the first test asks
// for them, and not at all if none does, as in the many processes of a fuzz
// target.
//
// Tests may issue by the CA, but neither close nor rotate it: what needs a CA of
// its own makes one. Nothing of the product imports this package.
package town
