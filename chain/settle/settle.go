// Package settle derives from the final commits of a run what each epoch of its
// ledger pays, and to whom: the same on every peer, whenever it looked, and
// after every restart. It is pure.
//
// # From commits to an epoch
//
// Deltas and verdicts carry receipts: their sender's signature for the epoch of
// the ledger in which the work was done. A receipt counts once its message is in
// a final commit. No peer's clock decides when an epoch is over: the commits'
// own does. A commit's reading is the lower median of the epochs that its
// workers sign for, one word each; the clock is the highest reading so far, so a
// minority can neither hold it back nor push it on. Epoch n is closed by the
// first final commit F_n that comes LateRounds+2 rounds after the clock has
// passed n, when no delta of n can be merged any more, or by the run's last
// commit (diloco.Commit.Ends): where validators audit that is the one after which nothing about the
// work of the last rounds can be said any more. In the closing rounds before it only validators speak, few of them in one
// commit; those who do not count as words for the clock as it is.
// F_n, and what is in and before it, fix the result (Close, Outcome).
//
// # What earns nothing
//
// Work without a receipt, with a receipt for another run, ledger or worker, for an epoch
// that is closed or has not begun, counted before, an audit that found only that
// material was withheld, and all work of a peer that was convicted in or before
// F_n, of anything but silence: what that one did was never found wrong. Each says why
// in its Line.
package settle

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Params say which run on which ledger, and what of the manifest matters here.
type Params struct {
	Run         wire.CID   // the manifest
	ID          chain.Hash // the run on the ledger
	Book        chain.Book
	LateRounds  uint64 // diloco.Config.LateRounds
	AuditWindow uint64 // diloco.Config.AuditWindow; 0: nobody is audited
	Stop        uint64 // the round after which nobody trains, see diloco.Commit.Ends; 0: there is none
}

// A Work is one piece of work that a final commit holds, or lacks.
type Work struct {
	Round uint64      `cbor:"round"` // of the commit
	Peer  wire.PeerID `cbor:"peer"`
	Entry chain.Entry `cbor:"entry"` // Sig is empty where there was no receipt
	Why   string      `cbor:"why"`   // it cannot be paid; empty if it may be
}

// A Ban is a conviction, with the commit that said it.
type Ban struct {
	diloco.Conviction
	Round  uint64   `cbor:"round"`
	Commit wire.CID `cbor:"commit"`
}

// A Close is what the final commits say of one epoch: everything but the ledger's
// part.
type Close struct {
	Number     uint64        `cbor:"number"`
	Commit     wire.CID      `cbor:"commit"` // F_n
	Round      uint64        `cbor:"round"`  // F_n's
	Works      []Work        `cbor:"works"`
	Validators []wire.PeerID `cbor:"validators"` // of F_n's roster, in the order of their turns to propose
}

// maxWorks bounds the receipts of one epoch, far below the leaves of a tree.
const maxWorks = 1 << 16

// A Deriver is fed the final commits of a run in order.
type Deriver struct {
	p         Params
	at        wire.CID // the last commit fed
	round     uint64
	clock     uint64
	passed    []pass
	closed    uint64 // epochs below this are closed
	open      map[uint64]*[]Work
	convicted map[wire.PeerID]Ban
	seen      map[seenKey]uint64   // the round of the commit that had it first
	expect    map[uint64]*expected // by round
	over      bool
}

// expected are the trainers whose work of a round has not come yet.
type expected struct {
	epoch uint64 // that ran then
	peers map[wire.PeerID]bool
}

// A pass says that the clock reached Clock in Round: the epochs below are over.
type pass struct {
	Clock uint64 `cbor:"clock"`
	Round uint64 `cbor:"round"`
}

type seenKey struct {
	worker  chain.Address
	kind    chain.Kind
	subject chain.Hash
}

// New returns a Deriver that has seen nothing.
func New(p Params) *Deriver {
	return &Deriver{p: p, open: map[uint64]*[]Work{}, convicted: map[wire.PeerID]Ban{}, seen: map[seenKey]uint64{},
		expect: map[uint64]*expected{}, closed: 1}
}

// At is the last commit fed, undefined before the first, and its round.
func (d *Deriver) At() (wire.CID, uint64) { return d.at, d.round }

// Clock is the epoch that the commits are in, 0 before any receipt.
func (d *Deriver) Clock() uint64 { return d.clock }

// ClosedBelow is the lowest epoch that is not closed.
func (d *Deriver) ClosedBelow() uint64 { return d.closed }

// Over reports whether the run's last commit was fed.
func (d *Deriver) Over() bool { return d.over }

// Bans are the convictions so far, ascending by round, then peer.
func (d *Deriver) Bans() []Ban {
	return slices.SortedFunc(maps.Values(d.convicted), func(a, b Ban) int {
		return cmp.Or(cmp.Compare(a.Round, b.Round), a.Peer.Compare(b.Peer))
	})
}

// Add takes the next final commit, c with the CID id, and returns the epochs that
// it closes, ascending. The commit is one that the commit chain's machine has
// verified. Genesis comes first; the error says that a commit is not the next.
func (d *Deriver) Add(id wire.CID, c *diloco.Commit) ([]Close, error) {
	switch {
	case c.Run != d.p.Run:
		return nil, fmt.Errorf("commit %s is of the run %s, want %s", id, c.Run, d.p.Run)
	case d.at.Defined() && (c.Parent != d.at || c.Round != d.round+1), !d.at.Defined() && c.Round != 0:
		return nil, fmt.Errorf("commit %s of round %d does not follow %s of round %d", id, c.Round, d.at, d.round)
	case d.over: // no more work, but a late conviction still counts
		d.ban(id, c)
		d.at, d.round = id, c.Round
		return nil, nil
	}
	works := d.works(c)
	d.tick(c, works)
	for _, w := range works {
		d.put(w)
	}
	d.ban(id, c)
	d.miss(c)
	d.at, d.round = id, c.Round
	d.forget()
	d.over = c.Ends(d.p.Stop, d.p.AuditWindow)
	return d.close(id, c), nil
}

func (d *Deriver) ban(id wire.CID, c *diloco.Commit) {
	for _, x := range c.Convicted {
		if b, ok := d.convicted[x.Peer]; !ok || b.Why == diloco.WhySilent { // what is worse comes after it
			d.convicted[x.Peer] = Ban{x, c.Round, id}
		}
	}
}

// works lists the work in a commit, in the commit's order.
func (d *Deriver) works(c *diloco.Commit) []Work {
	var out []Work
	for i := range c.Deltas {
		if w, ok := d.delta(c, &c.Deltas[i]); ok {
			out = append(out, w)
		}
	}
	for i := range c.Verdicts {
		if w, ok := d.verdict(c, &c.Verdicts[i]); ok {
			out = append(out, w)
		}
	}
	return out
}

func (d *Deriver) delta(c *diloco.Commit, m *wire.Signed) (Work, bool) {
	var b diloco.Delta
	if wire.Unmarshal(m.Body, &b) != nil {
		return Work{}, false // cannot happen: the commit was verified
	}
	if x := d.expect[b.Round]; x != nil {
		delete(x.peers, m.From)
	}
	w := d.work(c, m, chain.Training, b.Block, b.Tokens, b.Epoch, b.Receipt)
	return w, true
}

func (d *Deriver) verdict(c *diloco.Commit, m *wire.Signed) (Work, bool) {
	var b diloco.Verdict
	if wire.Unmarshal(m.Body, &b) != nil {
		return Work{}, false
	}
	w := d.work(c, m, chain.Validation, b.Subject, 1, b.Epoch, b.Receipt)
	// A verdict that passes is in a commit only where its validator's coin, or an
	// open case, asked for it: diloco.VerifyCommit has looked.
	if w.Why == "" && b.Finding == diloco.Withheld {
		w.Why = "nothing was audited: the material was withheld"
	}
	return w, true
}

// work makes the receipt of a message and judges what the receipt alone shows.
func (d *Deriver) work(c *diloco.Commit, m *wire.Signed, kind chain.Kind, subject wire.CID, units, epoch uint64, sig []byte) Work {
	w := Work{Round: c.Round, Peer: m.From}
	who, err := m.From.Address()
	digest, err2 := chain.Digest(subject)
	w.Entry.Receipt = chain.Receipt{Run: d.p.ID, Epoch: epoch, Worker: who, Kind: kind, Subject: digest, Units: units}
	w.Entry.Sig = sig
	switch {
	case err != nil || err2 != nil:
		w.Why = "what it is for has no digest"
	case len(sig) == 0:
		w.Why = "no receipt: the peer knew no ledger (it joined without --chain, or the chain was away when it started)"
	case epoch == 0:
		w.Why = "made before the first epoch"
	case units == 0:
		w.Why = "it is for nothing"
	default:
		if err := d.p.Book.Check(&w.Entry); err != nil {
			w.Why = "bad receipt: it is not signed by its worker for this run and ledger"
		}
	}
	return w
}

// tick reads the commit's clock.
func (d *Deriver) tick(c *diloco.Commit, works []Work) {
	word := map[wire.PeerID]uint64{}
	for _, w := range works {
		if _, banned := d.convicted[w.Peer]; w.Why == "" && !banned {
			word[w.Peer] = max(word[w.Peer], w.Entry.Receipt.Epoch)
		}
	}
	if len(word) == 0 {
		return
	}
	if d.p.Stop != 0 && c.Round > d.p.Stop { // only validators speak now, few at a time: who does not holds the clock where it is
		for _, m := range c.Roster {
			if m.Role == "validator" && !m.Banned {
				word[m.Peer] = max(word[m.Peer], d.clock)
			}
		}
	}
	all := slices.Sorted(maps.Values(word))
	if now := all[(len(all)-1)/2]; now > d.clock {
		d.clock = now
		d.passed = append(d.passed, pass{now, c.Round})
	}
}

// put files a piece of work under its epoch; what cannot be paid any more is
// told with the epoch that is running.
func (d *Deriver) put(w Work) {
	n := w.Entry.Receipt.Epoch
	running := max(d.clock, d.closed)
	r := &w.Entry.Receipt
	k := seenKey{r.Worker, r.Kind, r.Subject}
	switch first, again := d.seen[k]; {
	case w.Why != "":
		n = running
	case again:
		w.Why, n = fmt.Sprintf("counted already in round %d", first), running
	case n < d.closed:
		w.Why, n = fmt.Sprintf("too late: epoch %d was closed before round %d", n, w.Round), running
	case n > running+1:
		w.Why, n = fmt.Sprintf("dated ahead: epoch %d, while the run was in epoch %d", n, d.clock), running
	default:
		d.seen[k] = w.Round
	}
	d.file(n, w)
}

func (d *Deriver) file(n uint64, w Work) {
	if d.open[n] == nil {
		d.open[n] = new([]Work)
	}
	if ws := d.open[n]; len(*ws) < maxWorks {
		*ws = append(*ws, w)
	}
}

// miss notes which trainers' work of a round never came.
func (d *Deriver) miss(c *diloco.Commit) {
	due := map[wire.PeerID]bool{}
	for _, m := range c.Roster {
		// A commit of round r whose roster names them is what they train from.
		if m.Role == "trainer" && !m.Banned && (d.p.Stop == 0 || c.Round < d.p.Stop) && c.Round > 0 {
			due[m.Peer] = true
		}
	}
	if len(due) > 0 {
		d.expect[c.Round] = &expected{max(d.clock, d.closed), due}
	}
	for _, r := range slices.Sorted(maps.Keys(d.expect)) {
		if r+1+d.p.LateRounds > c.Round && (d.p.Stop == 0 || c.Round < d.p.Stop) {
			continue
		}
		x := d.expect[r]
		for _, p := range slices.SortedFunc(maps.Keys(x.peers), wire.PeerID.Compare) {
			who, err := p.Address()
			if err != nil {
				continue
			}
			n := max(x.epoch, d.closed)
			d.file(n, Work{Round: r, Peer: p, Entry: chain.Entry{Receipt: chain.Receipt{Run: d.p.ID, Epoch: n, Worker: who}},
				Why: fmt.Sprintf("not merged: no delta of round %d came in time", r)})
		}
		delete(d.expect, r)
	}
}

// forget drops what cannot come again.
func (d *Deriver) forget() {
	keep := 2*(d.p.LateRounds+d.p.AuditWindow) + 16
	for k, r := range d.seen {
		if r+keep < d.round {
			delete(d.seen, k)
		}
	}
}

// close returns the epochs that commit c closes.
func (d *Deriver) close(id wire.CID, c *diloco.Commit) []Close {
	below := d.closed
	for len(d.passed) > 0 && d.passed[0].Round+d.p.LateRounds+2 <= c.Round {
		below = max(below, d.passed[0].Clock)
		d.passed = d.passed[1:]
	}
	if d.over {
		for n := range d.open {
			below = max(below, n+1)
		}
	}
	var out []Close
	for _, n := range slices.Sorted(maps.Keys(d.open)) {
		if n >= below {
			break
		}
		x := Close{Number: n, Commit: id, Round: c.Round, Works: *d.open[n], Validators: turns(d.p.ID, n, c.Roster)}
		for i := range x.Works {
			w := &x.Works[i]
			if b, ok := d.convicted[w.Peer]; ok && b.Why != diloco.WhySilent {
				w.Why = fmt.Sprintf("convicted in round %d: %s", b.Round, b.Why)
			}
		}
		out = append(out, x)
		delete(d.open, n)
	}
	d.closed = below
	return out
}

// turns orders a roster's validators by a hash that no one of them can choose.
func turns(run chain.Hash, number uint64, roster []diloco.Member) []wire.PeerID {
	var ps []wire.PeerID
	rank := map[wire.PeerID]wire.CID{}
	for _, m := range roster {
		if m.Role == "validator" && !m.Banned {
			ps = append(ps, m.Peer)
			rank[m.Peer] = wire.SumCID(wire.CodecRaw, fmt.Appendf(nil, "shoal/settle turn/1 %s %d %s", run, number, m.Peer))
		}
	}
	slices.SortFunc(ps, func(a, b wire.PeerID) int { return bytes.Compare([]byte(rank[a]), []byte(rank[b])) })
	return ps
}
