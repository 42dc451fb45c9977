package chain

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
)

// MaxLeaves bounds a tree: a proof is then at most 20 hashes.
const MaxLeaves = 1 << 20

// A Tree is a Merkle tree as OpenZeppelin's MerkleProof verifies and its
// StandardMerkleTree builds it: leaves sorted by their hashes, a complete
// binary tree in heap order, each pair hashed in ascending order.
type Tree struct {
	nodes []Hash // 2n-1 of them, the root at 0
	at    []int  // position in nodes of the leaf of each input
}

// leafOf is the double hash that keeps an inner node, 64 bytes, from passing
// for a leaf.
func leafOf(abi ...[]byte) Hash {
	h := keccak(abi...)
	return keccak(h[:])
}

// NewTree builds the tree over leaves.
func NewTree(leaves []Hash) (*Tree, error) {
	n := len(leaves)
	if n == 0 {
		return nil, errors.New("a Merkle tree needs at least one leaf")
	}
	if n > MaxLeaves {
		return nil, fmt.Errorf("%d leaves are over the limit of %d: settle in shorter epochs", n, MaxLeaves)
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return bytes.Compare(leaves[order[a]][:], leaves[order[b]][:]) < 0 })
	t := &Tree{make([]Hash, 2*n-1), make([]int, n)}
	for k, i := range order {
		t.nodes[2*n-2-k], t.at[i] = leaves[i], 2*n-2-k
	}
	for i := n - 2; i >= 0; i-- {
		t.nodes[i] = pair(t.nodes[2*i+1], t.nodes[2*i+2])
	}
	return t, nil
}

// Root returns the tree's root.
func (t *Tree) Root() Hash { return t.nodes[0] }

// Proof returns the siblings on the way from the i-th leaf to the root; nil if
// there is no such leaf.
func (t *Tree) Proof(i int) []Hash {
	if i < 0 || i >= len(t.at) {
		return nil
	}
	proof := []Hash{}
	for k := t.at[i]; k > 0; k = (k - 1) / 2 {
		sibling := k + 1
		if k%2 == 0 {
			sibling = k - 1
		}
		proof = append(proof, t.nodes[sibling])
	}
	return proof
}

// VerifyProof reports whether proof leads from leaf to root.
func VerifyProof(root, leaf Hash, proof []Hash) bool {
	if len(proof) > 64 {
		return false
	}
	for _, p := range proof {
		leaf = pair(leaf, p)
	}
	return leaf == root
}

func pair(a, b Hash) Hash {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	return keccak(a[:], b[:])
}
