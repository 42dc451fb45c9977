package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// settlePatience is how long after the run's end the ledger may take to settle
// everything.
const settlePatience = 4 * time.Minute

// A standing is what a peer's status says of the ledger.
type standing struct {
	Ledger *struct {
		Waiting int    `json:"waiting"` // epochs that are over and not settled
		Final   uint64 `json:"final"`
		Slashed []struct {
			Closed bool `json:"closed"`
		} `json:"slashed"`
	} `json:"ledger"`
}

// settled waits until every honest peer that runs has seen all epochs settled
// and all convictions carried out.
func (l *ledger) settled(ctx context.Context) {
	l.s.Line("waiting for the ledger to settle what was earned")
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	limit := time.NewTimer(settlePatience)
	defer limit.Stop()
	for calm := 0; calm < 3; { // a status may be older than the last epoch
		select {
		case <-ctx.Done():
			return
		case <-limit.C:
			l.s.c.Failures = append(l.s.c.Failures, fmt.Sprintf("the ledger has not settled everything %s after the run's end", settlePatience))
			return
		case <-tick.C:
		}
		waits := false
		for _, p := range l.s.peers {
			if p.proc == nil || p.rec.Cheat != nil {
				continue
			}
			var st standing
			if err := p.ask.Get(ctx, "/status", &st); err != nil || st.Ledger == nil || st.Ledger.Waiting > 0 || st.Ledger.Final == 0 {
				waits = true
				continue
			}
			for _, x := range st.Ledger.Slashed {
				waits = waits || !x.Closed
			}
		}
		if calm++; waits {
			calm = 0
		}
	}
}

// claim claims for every peer that has earned something, once none runs, and
// notes how the ledger then stands.
func (l *ledger) claim(ctx context.Context) {
	m := l.s.c.Money
	l.s.Line("claiming what every peer has earned")
	var err error
	if m.Lines, err = l.lines(); err != nil {
		m.Error = err.Error()
	}
	earned := map[wire.PeerID]bool{}
	for _, x := range m.Lines {
		earned[x.Peer] = earned[x.Peer] || x.Amount != "0"
	}
	for _, p := range l.s.peers {
		if !earned[p.rec.ID] {
			continue
		}
		if _, err := l.shoal(ctx, p.dir, "claim"); err != nil && p.rec.Cheat == nil { // a cheat may have been killed before it knew of anything
			l.s.c.Failures = append(l.s.c.Failures, fmt.Sprintf("%s: %v", p.rec.Name, err))
		}
	}
	st, err := l.look(ctx)
	if err != nil {
		m.Error = err.Error()
		return
	}
	m.Books, m.Balanced = st.Books, st.Balanced
	for _, r := range st.Runs {
		m.Final = max(m.Final, r.Final.Epoch)
	}
	l.mu.Lock()
	m.Events = slices.Clone(l.seen)
	l.mu.Unlock()
}

// lines reads what each piece of work earned, as the peer derived it that has
// derived the most: all derive the same.
func (l *ledger) lines() (out []PayLine, err error) {
	for _, p := range l.s.peers {
		if p.rec.Cheat != nil {
			continue
		}
		files, err := filepath.Glob(filepath.Join(p.dir, "*", "epoch-*.json"))
		if err != nil {
			return nil, err
		}
		var all []PayLine
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			var e struct{ Lines []PayLine }
			if err := json.Unmarshal(b, &e); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, e.Lines...)
		}
		if len(all) > len(out) {
			out = all
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no peer has worked out what anybody earned")
	}
	return out, nil
}
