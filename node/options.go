package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/journal"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// The roles of those who take part. An observer has none.
const (
	RoleTrainer   = "trainer"
	RoleValidator = "validator"
)

// DefaultValWindows is over how many windows peers evaluate.
const DefaultValWindows = 64

// Options is what a node is made of. Fields without a default must be set.
type Options struct {
	// Dir is the node's own directory, for one run and one process: the
	// caller holds its lock. The node writes journal/, inner/ and history.jsonl in it.
	Dir string
	// Key signs; Net must be the host of the same peer.
	Key *wire.Key
	// Run is the manifest's CID.
	Run wire.CID
	// Manifest may be given by who has it, its publisher say. By default it is
	// taken from the store, or fetched.
	Manifest *manifest.Manifest

	Net    Net
	Blocks Blocks
	// Board hears of runs and tells of this one. By default the node makes one
	// and runs it; a given one is run by its owner.
	Board *Board
	// Engine makes what computes. It is called once, when the manifest is known.
	Engine func(ctx context.Context, m *manifest.Manifest) (Engine, error)

	// Role is RoleTrainer, the default, or RoleValidator, which votes and merges
	// as others do, and audits instead of training.
	Role string
	// Lie may change what this validator's audits say before it is signed. Testnets
	// have liars; nil says what was found.
	Lie func(audit.Task, *diloco.Verdict)
	// Observe makes a peer that follows and serves the chain, and neither trains nor votes.
	Observe bool
	// Prune forgets payloads and commits some rounds after they are final. By
	// default all are kept, and those from before this peer joined are fetched, so
	// that the lineage can be replayed from here.
	Prune bool
	// ExitWhenDone makes Run return once the last commit is final. By default
	// the node goes on serving.
	ExitWhenDone bool

	// SnapshotEvery is how often the inner phase is saved: what kill -9 may cost.
	// Default 2 s; never more than a twentieth of the time goes into saving.
	SnapshotEvery time.Duration
	// ValEvery is after how many rounds the head's state is evaluated, between
	// two inner phases. Default: as often as takes a tenth of the compute; the
	// last state always is.
	ValEvery uint64
	// ValWindows is over how many windows of the validation split, spread
	// evenly. Default DefaultValWindows; fewer where the split is shorter.
	ValWindows int
	// Patience is how long one delta or commit may take to fetch. Default: the
	// round's deadline, at least 10 s.
	Patience time.Duration
	// Payer makes receipts for the run's ledger. By default there is no ledger.
	Payer Payer
	// Stake says, at once, whether a peer has, as a validator or else as a trainer,
	// the stake that the run asks of that role on its ledger (diloco.Config.Stake).
	// Of trainers it is asked where the run admits by stake. By default all are taken in
	// and nobody is sent away, but runs that admit by stake are refused.
	Stake func(p wire.PeerID, validator bool) diloco.Standing
	// Log defaults to silence.
	Log *slog.Logger

	// openJournal is replaced by tests that make the disk fail.
	openJournal func() (journalFile, []journal.Record, error)
}

func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Dir == "":
		return o, errors.New("node: Options.Dir is not set")
	case o.Key == nil || o.Net == nil || o.Blocks == nil || o.Engine == nil:
		return o, errors.New("node: Options.Key, Net, Blocks and Engine must be set")
	case o.Net.Self() != o.Key.Peer():
		return o, fmt.Errorf("node: the host is %s, the key is of %s", o.Net.Self(), o.Key.Peer())
	case o.Run.Codec() != wire.CodecDagCBOR:
		return o, fmt.Errorf("node: %q is not the ID of a run (a CID of DAG-CBOR)", o.Run.String())
	}
	if o.Manifest != nil {
		c, err := o.Manifest.CID()
		if err != nil {
			return o, fmt.Errorf("node: %w", err)
		}
		if c != o.Run {
			return o, fmt.Errorf("node: the manifest is %s, the run %s", c, o.Run)
		}
	}
	switch o.Role {
	case "":
		o.Role = RoleTrainer
	case RoleTrainer, RoleValidator:
	default:
		return o, fmt.Errorf("node: role %q is neither %s nor %s", o.Role, RoleTrainer, RoleValidator)
	}
	if o.SnapshotEvery <= 0 {
		o.SnapshotEvery = 2 * time.Second
	}
	if o.ValWindows <= 0 {
		o.ValWindows = DefaultValWindows
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
