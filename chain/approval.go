package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// An Approval is one validator's word that an epoch is right: its hot key's
// signature. Those of two thirds of the validators' stake finalize an epoch at
// once (FinalizeFast). They travel off the chain, in any order and any way.
type Approval struct {
	Epoch Hash    `cbor:"epoch" json:"epoch"` // Book.EpochDigest: what is signed
	Key   Address `cbor:"key" json:"key"`     // the hot key
	Sig   []byte  `cbor:"sig" json:"sig"`     // 65 bytes over Epoch
}

// Approve signs e with a hot key.
func (b Book) Approve(k *wire.Key, e *Epoch) Approval {
	d := b.EpochDigest(e)
	return Approval{Epoch: d, Key: AddressOf(k), Sig: SignDigest(k, d)}
}

// CheckApproval reports why a is no approval of e by its key. It does not know whether
// the key is registered.
func (b Book) CheckApproval(e *Epoch, a *Approval) error {
	return a.check(b.EpochDigest(e))
}

func (a *Approval) check(d Hash) error {
	if a.Epoch != d {
		return fmt.Errorf("approval of %s is of %s, another epoch, chain or deployment than %s", a.Key, a.Epoch, d)
	}
	who, err := Recover(d, a.Sig)
	if err != nil {
		return fmt.Errorf("approval of %s: %w", a.Key, err)
	}
	if who != a.Key {
		return fmt.Errorf("approval of %s is signed by %s", a.Key, who)
	}
	return nil
}

// A Quorum is a set of approvals in the form that the chain takes, and what
// they weigh.
type Quorum struct {
	Sigs    [][]byte  `json:"-"`      // ascending by owner, as FinalizeFast wants them
	Owners  []Address `json:"owners"` // whose they are, in the same order
	Weight  Amount    `json:"weight"` // their stake when the epoch began, as far as it can still be lost
	Total   Amount    `json:"total"`  // all validators' stake then
	Refused []error   `json:"-"`      // why others do not count
	Enough  bool      `json:"enough"` // two thirds
	Run     Hash      `json:"run"`    // of the epoch
	Number  uint64    `json:"number"` // of the epoch
}

// Count weighs approvals of e by what the ledger says of their keys. Those that
// do not count are named in Refused; one account counts once.
func Count(ctx context.Context, l Ledger, e *Epoch, as []Approval) (Quorum, error) {
	q := Quorum{Weight: Int(0), Total: Int(0), Run: e.Run, Number: e.Number}
	r, err := l.Run(ctx, e.Run)
	if err != nil {
		return q, err
	}
	if e.Number == 0 {
		return q, errors.New("epochs are counted from 1")
	}
	begin, _ := r.Span(e.Number)
	if _, q.Total, err = l.Weight(ctx, Address{}, begin); err != nil {
		return q, err
	}
	err = q.weigh(ctx, l, l.Book().EpochDigest(e), begin, as)
	return q, err
}

// CountConviction weighs signatures for a conviction: their Epoch is its digest.
// Both the stakes when the run's present epoch began and those of today must
// give two thirds, as the contract wants it.
func CountConviction(ctx context.Context, l Ledger, c *Conviction, as []Approval) (Quorum, error) {
	q := Quorum{Weight: Int(0), Total: Int(0), Run: c.Run}
	r, err := l.Run(ctx, c.Run)
	if err != nil {
		return q, err
	}
	now, err := l.Now(ctx)
	if err != nil {
		return q, err
	}
	if q.Number = r.EpochAt(now); q.Number == 0 {
		return q, refuse("TooEarly")
	}
	begin, _ := r.Span(q.Number)
	if _, q.Total, err = l.Weight(ctx, Address{}, begin); err != nil {
		return q, err
	}
	latest, err := l.TotalStake(ctx, Validator)
	if err != nil {
		return q, err
	}
	if less(q.Total, latest) {
		q.Total = latest
	}
	err = q.weigh(ctx, l, l.Book().ConvictionDigest(c), begin, as)
	return q, err
}

// weigh adds up the approvals of digest by the stakes at begin.
func (q *Quorum) weigh(ctx context.Context, l Ledger, digest Hash, begin uint64, as []Approval) error {
	type signed struct {
		owner Address
		sig   []byte
	}
	var ok []signed
	no := func(format string, args ...any) { q.Refused = append(q.Refused, fmt.Errorf(format, args...)) }
	for i := range as {
		a := &as[i]
		if err := a.check(digest); err != nil {
			no("%w", err)
			continue
		}
		k, err := l.Key(ctx, a.Key)
		if err != nil {
			return err
		}
		if k.Owner.IsZero() || k.Until != 0 {
			no("%s is not a registered hot key, or not any more", a.Key)
			continue
		}
		if slices.ContainsFunc(ok, func(s signed) bool { return s.owner == k.Owner }) {
			continue // the same account again
		}
		w, _, err := l.Weight(ctx, k.Owner, begin)
		if err != nil {
			return err
		}
		if !positive(w) {
			no("%s, the owner of %s, had no validator stake when the epoch began, or has it no more", k.Owner, a.Key)
			continue
		}
		q.Weight = add(q.Weight, w)
		ok = append(ok, signed{k.Owner, a.Sig})
	}
	slices.SortFunc(ok, func(x, y signed) int { return bytes.Compare(x.owner[:], y.owner[:]) })
	for _, s := range ok {
		q.Sigs, q.Owners = append(q.Sigs, s.sig), append(q.Owners, s.owner)
	}
	q.Enough = twoThirds(q.Weight, q.Total)
	return nil
}

// VoteSalt is the salt of k's vote in the case about one proposal. It follows
// from the key, whose signatures are deterministic (RFC 6979), so that a vote
// can be revealed after a crash that lost everything but the key; and nobody
// else can guess it.
func (b Book) VoteSalt(k *wire.Key, run Hash, serial uint64) Hash {
	at := b.Contracts[Disputes]
	return keccak(SignDigest(k, keccak([]byte("shoal/vote salt"), word(b.ChainID), pad(at[:]), run[:], word(serial))))
}
