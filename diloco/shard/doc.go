// Package shard holds a run's data and says which of it each peer trains on.
//
// # Blocks
//
// The text is tokenized once and cut into blocks of at most 1 MiB, little-endian:
//
//	offset size
//	     0    4  "SHTK"
//	     4    1  version, 1
//	     5    1  bytes a token: 2 where the vocabulary has at most 65,536 tokens, else 4
//	     6    2  zero
//	     8    4  n, tokens in this block, at least 1
//	    12       n tokens
//
// They are raw blocks; the DAG-CBOR block of an Index lists them in order, in
// two parts: train, and the last of the text for validation.
//
// # Who trains on what
//
// A window is T+1 consecutive tokens: T inputs, each with the next token as its
// target. Window w of the training part begins at token w·T, so the part has
// (tokens−1)/T windows, which share one token at their borders.
//
// A round hands out slots·each positions from its commit's cursor on (Base):
// the peer in the slot-th place of the roster takes Base + slot·each + i for i
// below each, Batch of them in an inner step. Position p means window
// Window(run, windows, p): within each epoch (p / windows) the windows are in
// an order of their own, a permutation keyed by the run and the epoch. So
//
//   - two peers never train on the same position, and on the same window only where
//     a round begins in one epoch and ends in another;
//   - an epoch takes each window exactly once, however many peers share it;
//   - anyone can recompute the batches of any peer from the chain alone.
//
// The permutation is a balanced Feistel network of 8 rounds over the smallest
// even number of bits that holds the windows, walked until it falls on a window
// (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 5).
// With h bits in each half and all arithmetic modulo 2^64:
//
//	k_0 … k_7 = the 8 big-endian words of SHA-512("shoal/1 data order" ‖ run ‖ epoch as 8 bytes, big-endian)
//	(L, R)   -> (R, L ⊕ (mix(R + k_i) mod 2^h)) for i = 0 … 7, from L = x >> h, R = x mod 2^h
//	mix(z)    = the finalizer of SplitMix64 (Steele, Lea and Flood 2014, variant 13)
//
// run is the binary CID of the manifest. The order must resist nobody: it must
// only be the same everywhere and unlike any other run's.
package shard
