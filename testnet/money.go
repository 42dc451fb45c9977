package testnet

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Money is what was seen of the ledger. Amounts are in the token's smallest unit.
type Money struct {
	Events   []LedgerEvent `json:"events"`
	Books    []LedgerLine  `json:"books"`
	Balanced bool          `json:"balanced"` // by the ledger's own word, at the end
	Final    uint64        `json:"final"`    // the last epoch that is final
	Lines    []PayLine     `json:"lines"`    // what each piece of work earned, by what peers derived from final commits
	Outages  []Outage      `json:"outages,omitempty"`
	Error    string        `json:"error,omitempty"` // why it is incomplete
}

// A LedgerEvent is something that happened on the ledger.
type LedgerEvent struct {
	Name    string      `json:"name"`
	Account string      `json:"account,omitempty"`
	Number  uint64      `json:"number,omitempty"` // epoch
	Amount  json.Number `json:"amount,omitempty"`
	Fast    bool        `json:"fast,omitempty"` // final by the validators' signatures
	T       float64     `json:"t"`              // when it was first seen
}

// A LedgerLine is what a contract has and owes.
type LedgerLine struct {
	Contract string      `json:"contract"`
	Has      json.Number `json:"has"`
	Owes     json.Number `json:"owes"`
}

// A PayLine is what one piece of work earned, or why it earned nothing.
type PayLine struct {
	Epoch   uint64      `json:"epoch"`
	Round   uint64      `json:"round"` // of the commit that has the work, or of the round without any
	Peer    wire.PeerID `json:"peer"`
	Account string      `json:"account"`
	Kind    string      `json:"kind"`
	Units   uint64      `json:"units"`
	Amount  json.Number `json:"amount"`
	Why     string      `json:"why,omitempty"` // why the amount is zero
}

// An Outage is a time without the chain.
type Outage struct {
	From      float64 `json:"from"`
	To        float64 `json:"to"` // 0: it never came back
	FromRound uint64  `json:"from_round"`
	ToRound   uint64  `json:"to_round"`
}

// weiOf reads an amount; what is no number is 0.
func weiOf(n json.Number) *big.Int {
	v, ok := new(big.Int).SetString(string(n), 10)
	if !ok {
		return new(big.Int)
	}
	return v
}

// tokensOf writes an amount of smallest units as whole tokens.
func tokensOf(wei *big.Int) json.Number {
	r := new(big.Rat).SetFrac(wei, new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil))
	if r.IsInt() {
		return json.Number(r.Num().String())
	}
	f := r.FloatString(18)
	for f[len(f)-1] == '0' {
		f = f[:len(f)-1]
	}
	return json.Number(f)
}

// about is an amount in tokens for a chart.
func about(wei *big.Int) float64 {
	f, _ := new(big.Rat).SetFrac(wei, new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil)).Float64()
	return f
}

// sum adds up the amounts of one kind of event for an account.
func (m *Money) sum(name, account string) *big.Int {
	out := new(big.Int)
	if m == nil {
		return out
	}
	for _, e := range m.Events {
		if e.Name == name && e.Account == account && account != "" {
			out.Add(out, weiOf(e.Amount))
		}
	}
	return out
}

// when is the time at which a kind of event first befell an account.
func (m *Money) when(name, account string) (t float64, ok bool) {
	if m == nil || account == "" {
		return 0, false
	}
	i := slices.IndexFunc(m.Events, func(e LedgerEvent) bool { return e.Name == name && e.Account == account })
	if i < 0 {
		return 0, false
	}
	return m.Events[i].T, true
}

// A Payment is one peer's pay.
type Payment struct {
	Peer    string       `json:"peer"`
	ID      wire.PeerID  `json:"id"`
	Role    string       `json:"role"`
	Amount  json.Number  `json:"amount"`  // tokens claimed
	Earned  json.Number  `json:"earned"`  // tokens, by what peers derived
	Slashed json.Number  `json:"slashed"` // tokens
	Work    []PaidWork   `json:"work"`    // what it was for
	Unpaid  []UnpaidWork `json:"unpaid"`  // what was not paid, and why
}

// PaidWork is all work of one kind.
type PaidWork struct {
	Kind     string      `json:"kind"`
	Receipts int         `json:"receipts"`
	Units    uint64      `json:"units"`
	Earned   json.Number `json:"earned"`
}

// UnpaidWork is work that earned nothing for one reason.
type UnpaidWork struct {
	Why      string `json:"why"`
	Receipts int    `json:"receipts"`
}

// payments sums up what each peer was paid.
func (c *Chronicle) payments() (out []Payment) {
	if c.Money == nil {
		return nil
	}
	for _, p := range c.Peers {
		y := Payment{Peer: p.Name, ID: p.ID, Role: p.role(),
			Amount: tokensOf(c.Money.sum("Claimed", p.Account)), Slashed: tokensOf(c.Money.sum("Slashed", p.Account))}
		earned := new(big.Int)
		kinds := map[string]*big.Int{}
		for _, l := range c.Money.Lines {
			if l.Peer != p.ID {
				continue
			}
			a := weiOf(l.Amount)
			if a.Sign() == 0 {
				i := slices.IndexFunc(y.Unpaid, func(u UnpaidWork) bool { return u.Why == l.Why })
				if i < 0 {
					i, y.Unpaid = len(y.Unpaid), append(y.Unpaid, UnpaidWork{Why: l.Why})
				}
				y.Unpaid[i].Receipts++
				continue
			}
			i := slices.IndexFunc(y.Work, func(w PaidWork) bool { return w.Kind == l.Kind })
			if i < 0 {
				i, y.Work = len(y.Work), append(y.Work, PaidWork{Kind: l.Kind})
				kinds[l.Kind] = new(big.Int)
			}
			y.Work[i].Receipts++
			y.Work[i].Units += l.Units
			kinds[l.Kind].Add(kinds[l.Kind], a)
			y.Work[i].Earned = tokensOf(kinds[l.Kind])
			earned.Add(earned, a)
		}
		y.Earned = tokensOf(earned)
		out = append(out, y)
	}
	return out
}

// booksBalanced: every contract has what it owes, and what was claimed is what
// peers derived, or less where somebody has not claimed.
func booksBalanced(c *Chronicle) (bad []string, good string) {
	m := c.Money
	if m.Error != "" {
		bad = append(bad, m.Error)
	}
	if !m.Balanced {
		bad = append(bad, "the ledger's contracts do not hold what they owe")
	}
	for _, l := range m.Books {
		if weiOf(l.Has).Cmp(weiOf(l.Owes)) < 0 {
			bad = append(bad, fmt.Sprintf("%s has %s and owes %s", l.Contract, tokensOf(weiOf(l.Has)), tokensOf(weiOf(l.Owes))))
		}
	}
	earned, claimed := new(big.Int), new(big.Int)
	for _, p := range c.Peers {
		own := new(big.Int)
		for _, l := range m.Lines {
			if l.Peer == p.ID {
				own.Add(own, weiOf(l.Amount))
			}
		}
		got := m.sum("Claimed", p.Account)
		if got.Cmp(own) > 0 {
			bad = append(bad, fmt.Sprintf("%s claimed %s and earned %s", p.Name, tokensOf(got), tokensOf(own)))
		}
		earned.Add(earned, own)
		claimed.Add(claimed, got)
	}
	if earned.Sign() == 0 {
		bad = append(bad, "nobody earned anything")
	}
	return bad, fmt.Sprintf("every contract holds what it owes; %.2f tokens earned in %d epochs, %.2f claimed", about(earned), m.Final, about(claimed))
}
