package agent

import (
	"context"
	"fmt"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// slashOf says what an offence costs, in parts per 10,000 of each of the
// account's stakes: all validators must sign the same. Silence (diloco.WhySilent) costs the
// seat, and nothing here: a machine may be too slow for its duty without having taken
// anything, and until 2/3 find its work wrong it was right.
var slashOf = map[string]uint16{
	diloco.WhyWork:         3_000,
	diloco.WhyVerdict:      3_000,
	diloco.WhyWithheld:     500, // it may have been an accident
	diloco.WhyEquivocation: 5_000,
}

// conviction is what validators sign about a ban; ok is false for one that the
// ledger cannot name.
func (a *Agent) conviction(b *settle.Ban) (c chain.Conviction, ok bool) {
	key, err := b.Peer.Address()
	if err != nil || slashOf[b.Why] == 0 {
		return c, false
	}
	c = chain.Conviction{Run: a.opt.Params.ID, Key: key, Bps: slashOf[b.Why]}
	// An equivocation has no subject: the commit that convicted is named.
	subject, evidence := b.Subject, b.Evidence
	if !subject.Defined() {
		subject = b.Commit
	}
	if !evidence.Defined() {
		evidence = b.Commit
	}
	if c.Subject, err = chain.Digest(subject); err != nil {
		return c, false
	}
	c.Evidence, err = chain.Digest(evidence)
	return c, err == nil
}

// convict brings the convictions of final commits before the ledger.
func (a *Agent) convict(ctx context.Context) error {
	l := a.opt.Ledger
	for _, b := range a.d.Bans() {
		c, ok := a.conviction(&b)
		if !ok {
			continue
		}
		if b.Why == diloco.WhyEquivocation {
			if signed, err := a.contradiction(ctx, &b, c.Key); err != nil {
				return err
			} else if !signed {
				continue
			}
		}
		id := c.ID()
		if _, done := a.st.Slashed[id.String()]; done {
			continue
		}
		s, err := l.Sentence(ctx, id)
		if err != nil {
			return fmt.Errorf("conviction of %s: %w", c.Key, err)
		}
		what := fmt.Sprintf("conviction of %s (%s)", c.Key, b.Why)
		switch s.Phase {
		case chain.NotReported:
			err = a.reportBan(ctx, what, &c)
		case chain.Reported, chain.UnderAppeal:
			if a.now > s.Deadline && a.turn(what+" execute", a.order(what)) {
				_, err = a.do(ctx, what+": slash", chain.ExecuteConviction{ID: id})
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// contradiction brings what an equivocator has signed before the contract that it
// convicts by itself. signed reports whether the validators have to sign: that contract
// takes no verdicts. Where it is not known here what was signed, somebody else knows, and
// nobody signs; so an equivocator loses its stake once.
func (a *Agent) contradiction(ctx context.Context, b *settle.Ban, key chain.Address) (signed bool, err error) {
	if _, done := a.st.Equivocated[key.String()]; done || a.opt.Evidence == nil {
		return false, nil
	}
	e, ok := a.opt.Evidence(b.Peer)
	if !ok || e.A.Kind == wire.KindVerdict {
		return ok, nil
	}
	what := fmt.Sprintf("two %ss of %s that contradict each other", e.A.Kind, key)
	if stake, err := a.slashable(ctx, key); err != nil || stake.Sign() == 0 || a.tried[what] || !a.turn(what, a.order(what)) {
		return false, err
	}
	_, err = a.do(ctx, what, chain.NewReport(e.A, e.B))
	a.tried[what] = err == nil // taken, and soon seen among the events; or refused, and always will be
	return false, err
}

// slashable is what there is to take of whom a key signs for.
func (a *Agent) slashable(ctx context.Context, key chain.Address) (chain.Amount, error) {
	l := a.opt.Ledger
	k, err := l.Key(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", key, err)
	}
	account, stake := key, chain.Int(0)
	if !k.Owner.IsZero() {
		account = k.Owner
	}
	for role := chain.Trainer; role <= chain.Validator; role++ {
		s, err := l.StakeOf(ctx, account, role)
		if err != nil {
			return nil, fmt.Errorf("stake of %s: %w", account, err)
		}
		stake = add(stake, s.Slashable())
	}
	return stake, nil
}

func (a *Agent) reportBan(ctx context.Context, what string, c *chain.Conviction) error {
	l := a.opt.Ledger
	stake, err := a.slashable(ctx, c.Key)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if stake.Sign() == 0 || a.run.EpochAt(a.now) == 0 {
		return nil // there is nothing to take
	}
	d := l.Book().ConvictionDigest(c)
	if err := a.sign(ctx, d, ""); err != nil {
		return err
	}
	q, err := chain.CountConviction(ctx, l, c, a.approvals(d))
	if err != nil {
		return fmt.Errorf("%s: signatures: %w", what, err)
	}
	if q.Enough && a.turn(what, a.order(what)) {
		_, err = a.do(ctx, what+": report", chain.Convict{Conviction: *c, Sigs: q.Sigs})
	}
	return err
}
