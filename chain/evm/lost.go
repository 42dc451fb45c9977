package evm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
)

// A chain can lose what was safe: by a reorganization deeper than anybody
// expected, or because its node was restored from an older state. All that
// this account sends afterwards then waits for the nonces that are missing.
//
// So a Sender remembers the last transactions that were safe, and in which
// blocks, and looks now and then whether the newest of these blocks is still
// there; its ancestors then are, too. What is gone and nowhere else is in flight
// again: the very same bytes, under the same nonce, so that it cannot be mined
// twice; and who asks for the same call again waits for it, instead of for
// another one. What another transaction has taken the nonce of, and what is
// now mined and reverts, can only be told of (Loss). A nonce that nobody here
// knows anything of is another process's, which has time to send it again; then
// it is filled with a transfer of nothing, and nobody waits for ever.

// A Loss is what became of a transaction that the chain has lost.
type Loss struct {
	What  string      // which transaction
	Tx    common.Hash // zero: it is not known here
	Again bool        // it is sent again, and nothing need be done
	Why   string
}

func (l Loss) String() string { return l.What + ": " + l.Why }

// patience is how many looks in a row must agree before a node that may only be
// behind is believed.
const patience = 20

// errUnsure says that a node does not know yet what it has.
var errUnsure = errors.New("the node is not sure which transactions it has")

// maxLosses bounds the losses that are remembered.
const maxLosses = 16

// A gap is nonces below our own that nobody here knows anything of.
type gap struct {
	nonce uint64
	since time.Time // zero: there is none
}

// Losses returns what the chain has lost and what is still to be done about it: what
// is being sent again, and what only the owner of the account can do again.
func (s *Sender) Losses() []Loss {
	s.telling.Lock()
	defer s.telling.Unlock()
	out := slices.Clone(s.losses)
	for _, n := range slices.Sorted(maps.Keys(s.again)) {
		out = append(out, s.again[n])
	}
	return out
}

func again(f *flight) Loss {
	return Loss{f.name(), hashOf(f), true, "the chain has lost it, and it is sent again"}
}

func hashOf(f *flight) common.Hash { return crypto.Keccak256Hash(f.Raw[len(f.Raw)-1]) }

func (s *Sender) missing() Loss {
	return Loss{What: fmt.Sprintf("the transaction of %s with nonce %d", s.from, s.gap.nonce), Again: true,
		Why: "the chain lacks it, nobody here knows it, and all later ones wait for it: start the other program that uses this account; " +
			"else an empty one takes its place soon, and what it did must be done again"}
}

// lose tells of a loss under that nonce.
func (s *Sender) lose(nonce uint64, l Loss) {
	s.telling.Lock()
	if l.Again {
		s.again[nonce] = l
	} else {
		delete(s.again, nonce)
		s.losses = append(s.losses, l)
		s.losses = s.losses[max(0, len(s.losses)-maxLosses):]
	}
	s.telling.Unlock()
	if s.opt.OnLoss != nil {
		s.opt.OnLoss(l)
	}
}

// found ends what was told of a nonce.
func (s *Sender) found(nonce uint64) {
	s.telling.Lock()
	defer s.telling.Unlock()
	delete(s.again, nonce)
}

// Tend looks until ctx ends whether the chain still has what it had, and brings
// to its end what is in flight and nobody waits for. told hears what goes wrong.
func (s *Sender) Tend(ctx context.Context, told func(error)) {
	for ctx.Err() == nil {
		s.look(ctx)
		if err := s.Resume(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrReplaced) { // that is told
			told(err)
		}
		for range patience / 2 {
			if s.c.pause(ctx) != nil {
				return
			}
		}
	}
}

// has reports whether the chain has that block. known is false where the node
// does not say so.
func (s *Sender) has(ctx context.Context, p *place) (there, known bool, err error) {
	h, err := s.c.HeaderByNumber(ctx, big64(p.Number))
	switch {
	case errors.Is(err, ethereum.NotFound):
		return false, false, nil
	case err != nil:
		return false, false, err
	}
	return h.Hash() == p.Hash, true, nil
}

// first returns the chain's block 1, nil where it is not to be had. Two chains that
// began with the same genesis have different ones.
func (s *Sender) first(ctx context.Context) *place {
	h, err := s.c.HeaderByNumber(ctx, big64(1))
	if err != nil {
		return nil
	}
	return &place{Number: 1, Hash: h.Hash()}
}

// look sees whether the chain still has what was safe, and puts into flight again
// what it has lost. It reports false where it is too early to tell.
func (s *Sender) look(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Collect(maps.Values(s.landed))
	if len(list) == 0 {
		return true
	}
	slices.SortFunc(list, func(a, b *flight) int { return int(int64(b.Landed.Number) - int64(a.Landed.Number)) })
	there, known, err := s.has(ctx, list[0].Landed)
	switch {
	case err != nil:
		return true // nothing is known, and nothing else will succeed
	case there:
		s.short = 0
		return true
	case !known:
		if s.short++; s.short <= patience {
			return false // it may only be behind
		}
	}
	same, err := s.lost(ctx, list)
	if errors.Is(err, errUnsure) {
		s.short++
		return s.short > 3*patience // a node that never knows must not stop everything
	}
	s.short = 0
	if err != nil {
		return true
	}
	if !same {
		clear(s.landed)
		s.lose(0, Loss{What: fmt.Sprintf("the last %d transactions of %s", len(list), s.from), Tx: hashOf(list[0]),
			Why: "the chain has none of them, nor the blocks that were before them: it is another one, begun anew; what they did must be done again"})
	}
	if err := s.saveLocked(); err != nil {
		s.lose(0, Loss{What: "the list of transactions", Why: err.Error()})
	}
	return true
}

// looked looks until it can be told.
func (s *Sender) looked(ctx context.Context) error {
	for !s.look(ctx) {
		if err := s.c.pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// lost goes through what was safe, newest first. same reports whether it is the chain that
// they were on: one that was begun anew under the same ID is not to get them.
func (s *Sender) lost(ctx context.Context, list []*flight) (same bool, err error) {
	nonce, err := s.c.NonceAt(ctx, s.from, nil)
	if err != nil {
		return false, err
	}
	n, told := 0, false // of how many the blocks are gone; whether any says which chain it was on
	for ; n < len(list); n++ {
		if same, _, err = s.has(ctx, list[n].Landed); err != nil {
			return false, err
		}
		if same {
			break // and so are all that came before
		}
	}
	for _, f := range list[:n] {
		if f.First != nil && !same {
			told = true
			if same, _, err = s.has(ctx, f.First); err != nil {
				return false, err
			}
		}
	}
	if told && !same {
		return false, nil
	}
	var gone []*flight
	for _, f := range list[:n] {
		if rc, sure := s.receipt(ctx, f.Raw); rc != nil {
			was := f.Landed
			f.Landed = &place{rc.BlockNumber.Uint64(), rc.BlockHash, rc.Status != types.ReceiptStatusSuccessful}
			same = true
			if f.Landed.Failed && !was.Failed {
				s.lose(f.Nonce, Loss{f.name(), rc.TxHash, false, "the chain has been reorganized, and now it reverts: do it again if it should still be done"})
			}
		} else if !sure {
			return false, errUnsure
		} else {
			gone = append(gone, f)
		}
	}
	if !same {
		return false, nil
	}
	slices.Reverse(gone)
	for _, f := range gone {
		delete(s.landed, f.Nonce)
		if f.Nonce < nonce || s.flights[f.Nonce] != nil {
			if other := s.flights[f.Nonce]; other == nil || !other.is(f.To, f.Data, f.Value.ToInt()) {
				s.lose(f.Nonce, Loss{f.name(), hashOf(f), false, "the chain has lost it, and another transaction has taken its nonce: do it again if it should still be done"})
			}
			continue
		}
		f.Landed, f.lost, f.adopted, f.sent = nil, true, false, time.Now()
		s.flights[f.Nonce] = f
		s.lose(f.Nonce, again(f))
	}
	return true, nil
}

// mend brings what must be mined before the flights of nonce and above: those that nobody tends, and
// nonces that nobody knows.
func (s *Sender) mend(ctx context.Context, nonce uint64) error {
	s.look(ctx)
	if err := s.bring(ctx, func(f *flight) bool { return f.Nonce < nonce }); err != nil && !errors.Is(err, ErrReplaced) {
		return err
	}
	return s.fill(ctx)
}

// bring waits for flights that nobody waits for, in their order. What becomes of
// them is told; the error is ErrReplaced where all came to an end, and some so.
func (s *Sender) bring(ctx context.Context, which func(*flight) bool) (replaced error) {
	for {
		var f *flight
		s.mu.Lock()
		for _, n := range slices.Sorted(maps.Keys(s.flights)) {
			if x := s.flights[n]; !x.adopted && !x.tended && which(x) {
				f = x
				break
			}
		}
		if f == nil {
			s.mu.Unlock()
			return replaced
		}
		f.tended = true
		lost := f.lost
		s.mu.Unlock()
		_, err := s.wait(ctx, f)
		s.mu.Lock()
		f.tended = false
		if errors.Is(err, ErrReplaced) || lost && errors.Is(err, errReverted) {
			s.lose(f.Nonce, Loss{f.name(), hashOf(f), false, "the chain has lost it or never had it, and it cannot be done again as it was: " + err.Error()})
		}
		s.mu.Unlock()
		switch {
		case errors.Is(err, ErrReplaced):
			replaced = errors.Join(replaced, err)
		case err != nil && !errors.Is(err, errReverted):
			return err
		}
	}
}

// fill takes the nonces below our own that nobody knows anything of, once there was
// time to send them again for whoever does.
func (s *Sender) fill(ctx context.Context) error {
	nonce, err := s.c.NonceAt(ctx, s.from, nil)
	if err != nil {
		return nil // again says what is wrong
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.flights) == 0 {
		return nil
	}
	lowest := slices.Min(slices.Collect(maps.Keys(s.flights)))
	switch {
	case nonce >= lowest || s.landed[nonce] != nil:
		if !s.gap.since.IsZero() {
			s.found(s.gap.nonce)
		}
		s.gap = gap{}
		return nil
	case s.gap.since.IsZero() || s.gap.nonce != nonce:
		s.found(s.gap.nonce)
		s.gap = gap{nonce, time.Now()}
		s.lose(nonce, s.missing())
		return nil
	case time.Since(s.gap.since) < 4*s.c.Bump:
		return nil
	}
	s.gap = gap{}
	tip, fee, err := s.fees(ctx)
	if err != nil {
		return nil
	}
	for n := nonce; n < lowest && len(s.flights) < maxFlights; n++ {
		tx, err := s.sign(types.NewTx(&types.DynamicFeeTx{ChainID: big64(s.c.Preset.ChainID), Nonce: n, To: &s.from, Value: new(big.Int), Gas: 21_000, GasTipCap: tip, GasFeeCap: fee}))
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		raw, err := tx.MarshalBinary()
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		f := &flight{Nonce: n, What: "an empty transaction", To: &s.from, Raw: []hexutil.Bytes{raw}, sent: time.Now()}
		s.flights[n] = f
		s.lose(n, Loss{What: fmt.Sprintf("the transaction of %s with nonce %d", s.from, n),
			Why: "the chain lacks it and nobody has sent it again, so an empty one takes its place: what it did must be done again"})
	}
	return s.saveLocked()
}
