// Package node is the shell of one peer of one run. It owns every goroutine,
// timer, port and file, and executes the effects of the pure machine of
// package diloco; it decides nothing that the machine could decide.
//
//	             gossip, sync            blocks                 engine
//	                  │ Heard              │ DeltaChecked,        │ Trained
//	                  ▼                    ▼ Merged, …            ▼
//	Tick ─────►  owner loop: diloco.Machine.Step(now, event) → effects
//	                  │
//	  Sign, Store, Adopt: here, in order, durable before the next
//	  Fetch…, Merge:      a goroutine each, its outcome is an event
//	  Train, Cut:         the trainer's goroutine
//
// # What survives kill -9
//
// A message is signed, appended to the journal, synced to disk and only then
// published: a restarted peer never contradicts what it said. Heads are
// journaled when they are adopted. The inner phase is saved every few seconds
// with its round, state, step, loss sums, weights and Adam moments, so a
// restart goes on at that step; the error feedback is saved before the delta
// that it belongs to is published. All files are replaced whole (write,
// fsync, rename, fsync of the directory).
//
// Where the disk is full the effects wait, in their order, and are tried
// again; the status says so, and nothing is published that is not on disk.
package node
