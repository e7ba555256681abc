package audit

import (
	"crypto/sha256"
	"hash"
	"math/bits"
)

// A digest is a node of a Merkle tree.
type digest = [sha256.Size]byte

// A tree is the root of an RFC 6962 §2.1 Merkle tree in the making: it takes
// leaves one by one and keeps only the roots of the complete subtrees on the
// left, one for each bit set in its size. The zero value is not ready; see
// newTree.
type tree struct {
	h     hash.Hash
	size  uint64
	stack []digest // roots of complete subtrees, the largest first
	buf   []byte
}

func newTree() *tree { return &tree{h: sha256.New()} }

// reset forgets all leaves.
func (t *tree) reset() { t.size, t.stack = 0, t.stack[:0] }

// leafHash returns the hash of a leaf's bytes: SHA-256(0x00 || data).
func (t *tree) leafHash(data []byte) (d digest) {
	t.h.Reset()
	t.buf = append(t.buf[:0], 0)
	t.h.Write(t.buf)
	t.h.Write(data)
	t.h.Sum(d[:0])
	return d
}

// nodeHash returns the hash of an inner node: SHA-256(0x01 || left || right).
func (t *tree) nodeHash(l, r *digest) digest {
	t.buf = append(append(append(t.buf[:0], 1), l[:]...), r[:]...)
	return sha256.Sum256(t.buf)
}

// add appends a leaf by its hash. After the leaf that makes the size a number
// with n trailing zero bits, n pairs of equal subtrees have become one.
func (t *tree) add(d digest) {
	t.size++
	for range bits.TrailingZeros64(t.size) {
		last := len(t.stack) - 1
		d = t.nodeHash(&t.stack[last], &d)
		t.stack = t.stack[:last]
	}
	t.stack = append(t.stack, d)
}

// root returns the hash of the whole tree. That of no leaves is SHA-256("").
func (t *tree) root() digest {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	r := t.stack[len(t.stack)-1]
	for i := len(t.stack) - 2; i >= 0; i-- {
		r = t.nodeHash(&t.stack[i], &r)
	}
	return r
}
