// Package revocation tells others than the gateway which certificates were
// revoked. The gateway itself never asks here: it asks the registry, with every
// transaction.
//
// A [Book] has the signed list (RFC 5280 §5) and knows what one certificate's
// status is. Both come from where the truth is: the CA's database, and the
// registry, which knows first. What a crash cut off between the two is made up for
// before a list is signed. A Book starts no goroutine: a list is made when
// somebody asks for it and the last one lacks a revocation or is past half of its
// validity. It is safe for concurrent use.
package revocation
