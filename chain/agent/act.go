package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/p2p/wire"
)

// act does what is this validator's to do now.
func (a *Agent) act(ctx context.Context) error {
	p, err := a.opt.Ledger.Proposal(ctx, a.opt.Params.ID)
	if err != nil {
		return fmt.Errorf("proposal: %w", err)
	}
	if p.Status == chain.Proposed {
		err = a.judge(ctx, &p)
	} else {
		err = a.propose(ctx, p.Serial)
	}
	return errors.Join(err, a.convict(ctx))
}

// propose proposes the next epoch, in this validator's turn.
func (a *Agent) propose(ctx context.Context, serial uint64) error {
	x := a.next
	if x == nil || !a.turn(fmt.Sprint("propose ", x.close.Number, serial), x.close.Validators) {
		return nil
	}
	final, err := a.opt.Ledger.Final(ctx, a.opt.Params.ID)
	if err != nil {
		return fmt.Errorf("final epoch: %w", err)
	}
	if x.close.Number <= final.Epoch {
		return nil // its event is not here yet
	}
	if err := a.bond(ctx); err != nil {
		return err
	}
	e := x.outcome.Settled.Epoch
	if err := a.sign(ctx, a.opt.Ledger.Book().EpochDigest(&e), a.publish(ctx, x.outcome.Settled)); err != nil {
		return err
	}
	_, err = a.do(ctx, fmt.Sprintf("propose epoch %d", e.Number), chain.Propose{Epoch: e})
	return err
}

// bond puts a bond in where none is free.
func (a *Agent) bond(ctx context.Context) error {
	free, err := a.opt.Ledger.Bonds(ctx, a.me)
	if err != nil {
		return fmt.Errorf("bonds: %w", err)
	}
	if short := new(big.Int).Sub(num(a.opt.Bond), free); short.Sign() > 0 {
		if _, err := a.do(ctx, "approve a bond", chain.Approve{Spender: chain.Settlement, Amount: short}); err != nil {
			return err
		}
		_, err = a.do(ctx, "put a bond in", chain.DepositBond{Amount: short})
	}
	return err
}

// publish serves an epoch's leaves; without files there is nothing to name.
func (a *Agent) publish(ctx context.Context, s *chain.Settled) wire.CID {
	if a.opt.Files == nil {
		return ""
	}
	b, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	c, err := a.opt.Files.PutFile(ctx, b)
	if err != nil {
		a.warn("publish", "the leaves of an epoch cannot be published", "err", err)
		return ""
	}
	return c
}

// maxLeaves bounds an epoch's file, in bytes.
const maxLeaves = 256 << 20

// leaves fetches what a proposal's roots stand for, from whoever signed it.
func (a *Agent) leaves(ctx context.Context, f *proposed) (*chain.Settled, error) {
	d := a.opt.Ledger.Book().EpochDigest(&f.Epoch)
	err := errors.New("nobody has named them")
	for _, t := range a.tallies[d] {
		if !t.file.Defined() || a.opt.Files == nil {
			continue
		}
		var b []byte
		if b, err = a.opt.Files.FetchFile(ctx, t.file, []wire.PeerID{t.peer}, maxLeaves); err != nil {
			continue
		}
		x := new(chain.Settled)
		if err = json.Unmarshal(b, x); err != nil {
			continue
		}
		if err = x.Seal(a.opt.Params.Book); err != nil {
			continue
		}
		if x.Epoch.Rewards != f.Epoch.Rewards || x.Epoch.Receipts != f.Epoch.Receipts || x.Epoch.Accounts != f.Epoch.Accounts || x.Epoch.Count != f.Epoch.Count {
			err = fmt.Errorf("the file %s is not what the roots stand for", t.file)
			continue
		}
		x.Epoch = f.Epoch
		return x, nil
	}
	return nil, err
}

// An opinion of a proposal.
type opinion int

const (
	unknown opinion = iota // it cannot be told yet
	right
	wrong
)

// opined is what came out about one proposal.
type opined struct {
	serial uint64
	op     opinion
	o      *settle.Outcome
}

// opinion recomputes a proposal; the outcome is set where it is right.
func (a *Agent) opinion(f *proposed) (opinion, *settle.Outcome, error) {
	if x := a.opined; x.serial == f.Serial && x.op != unknown {
		return x.op, x.o, nil
	}
	op, o, err := a.recompute(f)
	a.opined = opined{f.Serial, op, o}
	return op, o, err
}

func (a *Agent) recompute(f *proposed) (opinion, *settle.Outcome, error) {
	n := f.Epoch.Number
	if x := a.next; x != nil && x.close.Number == n {
		o, err := x.close.Match(a.opt.Params, x.words, f.Pools, &f.Epoch)
		if err != nil {
			return unknown, nil, err
		}
		if o == nil {
			return wrong, nil, nil
		}
		return right, o, nil
	}
	switch {
	case len(a.st.Finals) > 0 || !a.over(n):
		return unknown, nil, nil // what was finalized before is not worked out yet
	case a.next != nil: // it passes over an epoch that is due, or comes after it
		return wrong, nil, nil
	case n < a.d.ClosedBelow() || a.d.Over():
		return wrong, nil, nil // nobody can be paid for it
	}
	return unknown, nil, nil
}

// judge does what a live proposal asks of a validator.
func (a *Agent) judge(ctx context.Context, p *chain.Proposal) error {
	f := a.st.Proposed
	if f == nil || f.Serial != p.Serial || f.Epoch.Hash() != p.Hash {
		return nil // its event is not safe yet
	}
	op, o, err := a.opinion(f)
	if err != nil {
		return err
	}
	left := int64(p.Deadline) - int64(a.now)
	if op == unknown && left < int64(a.params.ChallengeWindow)/3 && a.d.Clock() >= f.Epoch.Number && a.over(f.Epoch.Number) {
		a.warn(fmt.Sprint("early", p.Serial), "a proposal comes before the commits that it names are final", "epoch", f.Epoch.Number)
		op = wrong
	}
	switch op {
	case right:
		err = a.support(ctx, f, p, o)
	case wrong:
		err = a.challenge(ctx, f, p)
	}
	return errors.Join(err, a.committee(ctx, f, op))
}

// support signs what is right, answers for it and makes it final.
func (a *Agent) support(ctx context.Context, f *proposed, p *chain.Proposal, o *settle.Outcome) error {
	d := a.opt.Ledger.Book().EpochDigest(&f.Epoch)
	var file wire.CID
	if f.Proposer == a.me {
		file = a.tallies[d][a.me].file
		if !file.Defined() {
			file = a.publish(ctx, o.Settled)
		}
	}
	if err := a.sign(ctx, d, file); err != nil {
		return err
	}
	for _, x := range a.st.Demands {
		var act chain.Action
		if i := int(x.Index); x.Side == chain.OfRewards && i < len(o.Settled.Rewards) {
			act = chain.AnswerReward{Epoch: f.Epoch, Reward: o.Settled.Rewards[i], Proof: o.Settled.RewardProof(i)}
		} else if x.Side == chain.OfReceipts && i < len(o.Settled.Entries) {
			act = chain.AnswerReceipt{Epoch: f.Epoch, Entry: o.Settled.Entries[i], Proof: o.Settled.EntryProof(i)}
		}
		if what := fmt.Sprint("answer ", p.Serial, x); act != nil && a.turn(what, a.order(what)) {
			if _, err := a.do(ctx, what, act); err != nil {
				return err
			}
		}
	}
	if p.Open > 0 {
		return nil
	}
	what := fmt.Sprintf("finalize epoch %d", f.Epoch.Number)
	q, err := chain.Count(ctx, a.opt.Ledger, &f.Epoch, a.approvals(d))
	if err != nil {
		return fmt.Errorf("signatures of epoch %d: %w", f.Epoch.Number, err)
	}
	switch {
	case q.Enough && a.turn(what+" fast", a.order(what)):
		_, err = a.do(ctx, what+" by signatures", chain.FinalizeFast{Epoch: f.Epoch, Sigs: q.Sigs})
	case a.now > p.Deadline && a.turn(what, a.order(what)):
		_, err = a.do(ctx, what, chain.Finalize{Epoch: f.Epoch})
	}
	return err
}

// order is a rotation of the validators that differs from deed to deed.
func (a *Agent) order(what string) []wire.PeerID {
	a.mu.Lock()
	defer a.mu.Unlock()
	ps := make([]wire.PeerID, 0, len(a.validators))
	rank := map[wire.PeerID]wire.CID{}
	for p := range a.validators {
		ps = append(ps, p)
		rank[p] = wire.SumCID(wire.CodecRaw, fmt.Appendf(nil, "%s %s", what, p))
	}
	slices.SortFunc(ps, func(x, y wire.PeerID) int { return slices.Compare([]byte(rank[x]), []byte(rank[y])) })
	return ps
}

// challenge objects to what is wrong, in the cheapest way that convicts.
func (a *Agent) challenge(ctx context.Context, f *proposed, p *chain.Proposal) error {
	what := fmt.Sprintf("challenge proposal %d of epoch %d", p.Serial, f.Epoch.Number)
	if !a.turn(what, a.order(what)) {
		return nil
	}
	if x, err := a.leaves(ctx, f); err == nil {
		act, err := a.fault(ctx, x)
		if err != nil {
			return err
		}
		if act != nil {
			_, err := a.do(ctx, what+" by a proof", act)
			return err
		}
	} else if p.Deadline > a.now && 3*(p.Deadline-a.now) > 2*uint64(a.params.ChallengeWindow) {
		return nil // the leaves may still come, and a proof be cheaper
	}
	c, err := a.opt.Ledger.Case(ctx, a.opt.Params.ID)
	if err != nil {
		return fmt.Errorf("case: %w", err)
	}
	if c.Stage != chain.NoCase && c.Serial == p.Serial || a.now > p.Deadline {
		return nil // it is before the committee, or it is too late
	}
	var evidence chain.Hash
	if a.next != nil {
		if file := a.publish(ctx, a.next.outcome.Settled); file.Defined() {
			if evidence, err = chain.Digest(file); err != nil {
				return err
			}
		}
	}
	if a.tried[what] {
		return nil // refused before, and nothing has changed since
	}
	done, err := a.do(ctx, what, chain.Dispute{Epoch: f.Epoch, Evidence: evidence})
	if done || err != nil {
		return err
	}
	// Most likely the contract may not take the bond yet: time is short, so this
	// is not asked first.
	if _, err := a.do(ctx, "approve a challenger's bond", chain.Approve{Spender: chain.Disputes, Amount: num(a.opt.ChallengeBond)}); err != nil {
		return err
	}
	if done, err = a.do(ctx, what, chain.Dispute{Epoch: f.Epoch, Evidence: evidence}); !done && err == nil {
		a.tried[what] = true
	}
	return err
}

// fault finds a proof against an epoch whose leaves are here.
func (a *Agent) fault(ctx context.Context, x *chain.Settled) (chain.Action, error) {
	begin, end := a.run.Span(x.Epoch.Number)
	serves := map[chain.Address]bool{}
	for i := range x.Entries {
		k := x.Entries[i].Receipt.Worker
		if _, ok := serves[k]; ok {
			continue
		}
		info, err := a.opt.Ledger.Key(ctx, k)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k, err)
		}
		serves[k] = info.Served(begin, end)
	}
	var previous *chain.Settled
	if len(a.st.Before) > 0 {
		// The tree of rewards is all that a proof of a decrease needs.
		previous = &chain.Settled{Epoch: chain.Epoch{Run: a.opt.Params.ID}, Rewards: slices.Clone(a.st.Before), Entries: x.Entries[:1]}
		if err := previous.Seal(a.opt.Params.Book); err != nil {
			return nil, err
		}
	}
	return settle.Fault(a.opt.Params.Book, a.opt.Params.ID, x, previous, func(k chain.Address) bool { return serves[k] }), nil
}

// committee votes on an open case and brings it to its end.
func (a *Agent) committee(ctx context.Context, f *proposed, op opinion) error {
	c, err := a.opt.Ledger.Case(ctx, a.opt.Params.ID)
	if err != nil {
		return fmt.Errorf("case: %w", err)
	}
	if c.Serial != f.Serial {
		return nil
	}
	id, what := a.opt.Params.ID, fmt.Sprintf("case about proposal %d", f.Serial)
	switch {
	case c.Stage == chain.Voting && a.now <= c.CommitEnd:
		return a.vote(ctx, &c, op)
	case c.Stage == chain.Voting && a.now <= c.RevealEnd:
		return a.reveal(ctx, &c)
	case c.Stage == chain.Voting && a.turn(what+" decide", a.order(what)):
		_, err = a.do(ctx, what+": count", chain.Decide{Run: id})
	case (c.Stage == chain.Decided || c.Stage == chain.Appealed) && a.now > c.StageEnd && a.turn(what+" execute", a.order(what)):
		_, err = a.do(ctx, what+": carry out", chain.Execute{Run: id})
	}
	return err
}

// voter is the account that this peer votes for.
func (a *Agent) voter(ctx context.Context) (chain.Address, error) {
	k, err := a.opt.Ledger.Key(ctx, a.me)
	if err != nil {
		return a.me, fmt.Errorf("own key: %w", err)
	}
	if k.Owner.IsZero() {
		return a.me, nil
	}
	return k.Owner, nil
}

func (a *Agent) vote(ctx context.Context, c *chain.Case, op opinion) error {
	if op == unknown {
		return nil
	}
	v, err := a.voter(ctx)
	if err != nil {
		return err
	}
	id, book := a.opt.Params.ID, a.opt.Ledger.Book()
	if had, err := a.opt.Ledger.Committed(ctx, id, v); err != nil || !had.IsZero() {
		return err
	}
	if w, _, err := a.opt.Ledger.Weight(ctx, v, c.Begin); err != nil || w.Sign() == 0 {
		return err // no stake when the epoch began: no vote
	}
	h := book.VoteHash(id, c.Serial, v, op == wrong, book.VoteSalt(a.opt.Key, id, c.Serial))
	_, err = a.do(ctx, fmt.Sprintf("vote on proposal %d", c.Serial), chain.CommitVote{Run: id, Hash: h})
	return err
}

// reveal opens the vote that was committed, whatever this peer thinks by now.
func (a *Agent) reveal(ctx context.Context, c *chain.Case) error {
	v, err := a.voter(ctx)
	if err != nil {
		return err
	}
	id, book := a.opt.Params.ID, a.opt.Ledger.Book()
	had, err := a.opt.Ledger.Committed(ctx, id, v)
	if err != nil || had.IsZero() {
		return err
	}
	salt := book.VoteSalt(a.opt.Key, id, c.Serial)
	for _, guilty := range []bool{true, false} {
		if book.VoteHash(id, c.Serial, v, guilty, salt) == had {
			_, err = a.do(ctx, fmt.Sprintf("reveal the vote on proposal %d", c.Serial), chain.RevealVote{Run: id, Guilty: guilty, Salt: salt})
			return err
		}
	}
	return nil
}
