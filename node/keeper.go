package node

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/shoalnet/shoal/p2p/wire"
)

// keeper says what the store must keep, by pins whose names tell why:
//
//	run/manifest, run/genesis, run/base, run/tokenizer, run/data, run/data/N
//	commit/ROUND/CID     every commit of the chain, and of forks
//	delta/ROUND/CID      payloads that this peer checked; ROUND is their parent's
//	state/ROUND/CID      the states of the last rounds
//	own/CID              own payloads whose fate is open (see debts)
//	trace/ROUND/CID      own audit material, of a trainer
//	evidence/ROUND/CID   what a validator's verdicts rest on
//
// With archive, commits and deltas are kept for ever: they are the lineage.
type keeper struct {
	blocks  Blocks
	archive bool
	audits  bool   // this peer replays, and keeps the states that segments begin with as long as traces
	before  uint64 // rounds of audit material before the oldest work that is audited, see beforeAudited
	log     *slog.Logger

	mu   sync.Mutex // guards the following
	pins map[string]wire.CID
}

// How many rounds behind the last final commit things are kept: states, which
// are large and can be made anew, and without archive the rest.
const (
	keepStates = 2
	keepRounds = 16
	keepBranch = 8 // states behind the head where nothing becomes final
)

func newKeeper(b Blocks, archive bool, log *slog.Logger) (*keeper, error) {
	pins, err := b.Pins()
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	return &keeper{blocks: b, archive: archive, log: log, pins: pins}, nil
}

func (k *keeper) pin(name string, c wire.CID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pins[name] == c {
		return nil
	}
	if err := k.blocks.Pin(name, c); err != nil {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	k.pins[name] = c
	return nil
}

func (k *keeper) pinned(name string) wire.CID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pins[name]
}

// latest returns the highest round that a pin of that kind is of, 0 without any.
func (k *keeper) latest(kind string) (round uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.pins {
		if rest, ok := strings.CutPrefix(name, kind+"/"); ok {
			digits, _, _ := strings.Cut(rest, "/")
			if r, err := strconv.ParseUint(digits, 10, 64); err == nil {
				round = max(round, r)
			}
		}
	}
	return round
}

func roundPin(kind string, round uint64, c wire.CID) string {
	return kind + "/" + strconv.FormatUint(round, 10) + "/" + c.String()
}

func (k *keeper) commit(c wire.CID, round uint64) error {
	return k.pin(roundPin("commit", round, c), c)
}
func (k *keeper) delta(c wire.CID, round uint64) error { return k.pin(roundPin("delta", round, c), c) }

func (k *keeper) trace(c wire.CID, round uint64) error { return k.pin(roundPin("trace", round, c), c) }

func (k *keeper) evidence(c wire.CID, round uint64) error {
	return k.pin(roundPin("evidence", round, c), c)
}

// state keeps a state; a round of 0 says that it is not known, and keeps it
// until the next head.
func (k *keeper) state(c wire.CID, round uint64) error { return k.pin(roundPin("state", round, c), c) }

// prune unpins what a head and a final commit made superfluous, then lets the
// store collect what nothing pins. audited is the round of the oldest work that may
// be audited (diloco.Commit.Audited).
func (k *keeper) prune(ctx context.Context, head, finalRound, audited uint64, keep ...wire.CID) {
	hold := map[wire.CID]bool{}
	for _, c := range keep {
		hold[c] = true
	}
	k.mu.Lock()
	for name, c := range k.pins {
		kind, rest, _ := strings.Cut(name, "/")
		digits, _, ok := strings.Cut(rest, "/")
		round, err := strconv.ParseUint(digits, 10, 64)
		if !ok || err != nil || hold[c] {
			continue
		}
		var old bool
		switch kind {
		case "state":
			old = round+keepStates < min(head, finalRound) || round+keepBranch < head
			old = old && !(k.audits && round+k.before >= audited)
		case "trace":
			old = round+k.before < audited
		case "commit", "delta", "evidence":
			old = !k.archive && round+keepRounds < finalRound
		}
		if !old {
			continue
		}
		if err := k.blocks.Unpin(name); err != nil {
			k.log.Warn("unpin", "pin", name, "err", err)
			continue
		}
		delete(k.pins, name)
	}
	k.mu.Unlock()
	if err := k.blocks.GC(ctx); err != nil && ctx.Err() == nil {
		k.log.Warn("collect garbage", "err", err)
	}
}
