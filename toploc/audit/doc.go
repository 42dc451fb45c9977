// Package audit decides who rechecks what, and what a recheck has shown. It is
// pure: the shell fetches and computes.
//
// # The coin
//
// Which work a validator audits must be foreseen by nobody, and be provable
// afterwards. A validator derives one secret a round from its key, each the hash of the
// next one's, puts the present one into its Join, and so fixes its choices before there is
// any work. A commit that merges a delta fixes the delta's ID; only then a validator
// shows the secret of that commit's round. DrawFor mixes the two and says whether that
// delta is audited, and which of its segments. A verdict reveals the secret; and when a
// round leaves the audit window, each validator's vote does, whether it found anything or
// not: anybody can recompute what it had to audit, and that it neither picked nor spared
// (Choose). The same coin chooses among the verdicts that a commit has.
//
// # The trace
//
// While it trains, a trainer keeps a snapshot of weights and AdamW moments at
// the end of each segment of its inner phase, and one TOPLOC proof of each
// batch's last hidden states. The Trace names them all; its CID, in the Delta,
// is the Merkle root. The first segment starts from the commit's own state, and from the
// moments that the trainer's previous trace ended with, so nothing upstream can be faked.
package audit
