package main

import "github.com/shoalnet/shoal/chain"

// A toldEvent is an event of the ledger for scripts, with what most of them ask for.
type toldEvent struct {
	Name    string        `json:"name"`
	Run     chain.Hash    `json:"run"`
	Account chain.Address `json:"account"`
	Number  uint64        `json:"number"` // epoch
	Amount  chain.Amount  `json:"amount"` // smallest units
	Fast    bool          `json:"fast"`
}

func toldEvents(es []chain.Event) []toldEvent {
	out := make([]toldEvent, len(es))
	for i, e := range es {
		out[i] = toldEvent{e.Name, e.Run, e.Account, e.Number, e.Amount, e.Fast}
	}
	return out
}
