package agent

import (
	"cmp"
	"math/big"
	"slices"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Status is how this peer stands with the ledger.
type Status struct {
	Run      chain.Hash    `json:"run"`     // on the ledger
	Epoch    uint64        `json:"epoch"`   // that runs there by the last poll
	Clock    uint64        `json:"clock"`   // that the final commits are in
	Closed   uint64        `json:"closed"`  // all before it are over by the commits
	Final    uint64        `json:"final"`   // the last that the ledger has settled
	Waiting  int           `json:"waiting"` // epochs that are over and not settled
	Polled   time.Time     `json:"polled"`
	Trouble  string        `json:"trouble,omitempty"`
	Lost     []string      `json:"lost,omitempty"` // transactions that the chain has lost, and what is to be done; for who sends them to fill in
	Slashed  []Slash       `json:"slashed"`
	Pool     chain.Amount  `json:"pool"`
	Account  chain.Address `json:"account"` // whose key this peer has; its own address where it is nobody's
	Proposed uint64        `json:"proposed,omitempty"`

	// Of epochs that the ledger has settled or passed over.
	Earned chain.Amount  `json:"earned"` // by this peer
	Lines  []settle.Line `json:"lines"`  // this peer's latest
	Totals []Total       `json:"totals"` // of every peer, ascending by peer
}

// A Total is what one peer has earned in all settled epochs.
type Total struct {
	Peer    wire.PeerID   `json:"peer"`
	Account chain.Address `json:"account"`
	Amount  chain.Amount  `json:"amount"`
	Paid    int           `json:"paid"`   // receipts that earned something
	Unpaid  int           `json:"unpaid"` // lines that did not
}

// maxLines bounds the lines of a Status.
const maxLines = 256

// note takes an epoch's lines into the status.
func (a *Agent) note(f *EpochFile) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range f.Lines {
		t := a.totals[l.Peer]
		if t == nil {
			t = &Total{Peer: l.Peer, Amount: chain.Int(0)}
			a.totals[l.Peer] = t
		}
		t.Account, t.Amount = l.Account, add(t.Amount, l.Amount)
		if num(l.Amount).Sign() > 0 {
			t.Paid++
		} else {
			t.Unpaid++
		}
		if l.Peer == a.opt.Key.Peer() {
			a.lines = append(a.lines, l)
		}
	}
	a.lines = a.lines[max(0, len(a.lines)-maxLines):]
}

// A Slash is a conviction of the run and how it ended.
type Slash struct {
	Peer    wire.PeerID   `json:"peer"`
	Key     chain.Address `json:"key"`
	Why     string        `json:"why"`
	Round   uint64        `json:"round"`
	Closed  bool          `json:"closed"`
	Slashed bool          `json:"slashed"`
	Amount  chain.Amount  `json:"amount"`
}

// Status says how the agent stands.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Earned, s.Lines = chain.Int(0), slices.Clone(a.lines)
	for _, t := range a.totals {
		s.Totals = append(s.Totals, *t)
		if t.Peer == a.opt.Key.Peer() {
			s.Earned = t.Amount
		}
	}
	slices.SortFunc(s.Totals, func(x, y Total) int { return x.Peer.Compare(y.Peer) })
	return s
}

func (a *Agent) report(err error) {
	s := Status{Trouble: a.short, Run: a.opt.Params.ID, Epoch: a.run.EpochAt(a.now), Clock: a.d.Clock(), Closed: a.d.ClosedBelow(), Final: a.st.Final, Waiting: len(a.st.Closes), Pool: num(a.run.Pool), Account: a.me}
	if k := a.keys[a.me]; !k.Owner.IsZero() {
		s.Account = k.Owner
	}
	if err != nil {
		s.Trouble = err.Error()
	}
	if a.st.Proposed != nil {
		s.Proposed = a.st.Proposed.Epoch.Number
	}
	for _, b := range a.d.Bans() {
		if slashOf[b.Why] == 0 {
			continue
		}
		x := Slash{Peer: b.Peer, Why: b.Why, Round: b.Round, Amount: chain.Int(0)}
		if c, ok := a.conviction(&b); ok {
			x.Key = c.Key
			sl, ok := a.st.Slashed[c.ID().String()]
			if e, reported := a.st.Equivocated[c.Key.String()]; reported && b.Why == diloco.WhyEquivocation {
				sl, ok = e, true
			}
			if ok {
				x.Closed, x.Slashed, x.Amount = true, sl.Guilty, num(sl.Amount)
			}
		}
		s.Slashed = append(s.Slashed, x)
	}
	a.mu.Lock()
	s.Polled = a.polled
	a.status = s
	a.mu.Unlock()
}

// extrapolate is for how long the ledger's last word says which epoch runs.
// Work goes on while the chain is away, and its receipts name the right epoch:
// the chain's clock and this peer's go at one pace.
const extrapolate = 24 * time.Hour

// Sign makes the receipt for a piece of work of this peer, of the chain.Kind
// kind. It asks nobody: the epoch is the one that runs by the last poll. The
// signature is empty, and the work will not be paid, where there was none
// within a day, or the run has not begun on the ledger.
func (a *Agent) Sign(kind uint8, subject wire.CID, units uint64) (epoch uint64, sig []byte) {
	a.mu.Lock()
	polled, at, run := a.polled, a.polledAt, a.polledRun
	a.mu.Unlock()
	gone := a.opt.Clock().Sub(polled)
	if polled.IsZero() || gone > extrapolate || gone < 0 || units == 0 {
		return 0, nil
	}
	d, err := chain.Digest(subject)
	if err != nil {
		return 0, nil
	}
	if epoch = run.EpochAt(at + uint64(gone/time.Second)); epoch == 0 || run.Ended != 0 {
		return 0, nil
	}
	e := a.opt.Params.Book.SignReceipt(a.opt.Key, chain.Receipt{Run: a.opt.Params.ID, Epoch: epoch, Kind: chain.Kind(kind), Subject: d, Units: units})
	return epoch, e.Sig
}

func sortFiles(fs []EpochFile) {
	slices.SortFunc(fs, func(x, y EpochFile) int { return cmp.Compare(x.Number, y.Number) })
}

func num(a chain.Amount) *big.Int {
	if a == nil {
		return new(big.Int)
	}
	return a
}

func add(a, b chain.Amount) chain.Amount { return new(big.Int).Add(num(a), num(b)) }
func sub(a, b chain.Amount) chain.Amount { return new(big.Int).Sub(num(a), num(b)) }
