package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/testnet/cheat"
)

// lie makes a peer that does not run yet a liar, as join --cheat does.
func (p *simPeer) lie(k cheat.Kind, from uint64) {
	l := cheat.New(k, from)
	l.Follow(p.key, func() node.Status { return p.node.Status() })
	p.serves = func(_ wire.PeerID, c wire.CID) bool { return l.Serves(c) }
	before := p.option
	p.option = func(o *node.Options) {
		if before != nil {
			before(o)
		}
		o.Net, o.Blocks, o.Engine, o.Lie = l.Net(o.Net), l.Blocks(o.Blocks), l.Engine(o.Engine), l.Verdict
	}
}

// convictions lists whom the chain up to a commit convicts, from a running peer's store.
func (p *simPeer) convictions(head wire.CID) map[wire.PeerID]diloco.Conviction {
	p.s.t.Helper()
	out := map[wire.PeerID]diloco.Conviction{}
	for at := head; at.Defined(); {
		b, err := p.store.Get(p.s.t.Context(), at)
		if err != nil {
			p.s.t.Fatal(err)
		}
		c, err := diloco.DecodeCommit(b)
		if err != nil {
			p.s.t.Fatal(err)
		}
		for _, k := range c.Convicted {
			out[k.Peer] = k
		}
		at = c.Parent
	}
	return out
}

// A part of the zoo (make zoo has all of it, as processes): cheats of every
// family are convicted for what they do, and nobody else is.
func TestSimSwarmZoo(t *testing.T) {
	const trainers, validators = 6, 4
	liars := map[int]cheat.Kind{3: cheat.Idle, 4: cheat.Replay, 5: cheat.Withhold, 9: cheat.PassAll}
	why := map[cheat.Kind][]string{
		cheat.Idle: {"wrong work"}, cheat.Replay: {"wrong work"}, cheat.Withhold: {"withheld"},
		cheat.PassAll: {"false verdict", "wrong work"}, // a case about what it passed, or about its verdict: the first to be decided
	}
	synctest.Test(t, func(t *testing.T) {
		speed := func(i int) time.Duration {
			if i >= trainers {
				return time.Millisecond // everything is audited by all: a validator needs a faster machine
			}
			return 200 * time.Millisecond
		}
		s := newSimSwarm(t, simOptions{speed: speed, change: func(m *manifest.Manifest) {
			m.Admission.MinPeers, m.Stop.Rounds = trainers, 24
			m.Verification.AuditRate, m.Verification.Segments, m.Verification.Window = 10_000, 2, 8
		}})
		for i := range trainers + validators {
			p := s.peer(i)
			if i >= trainers {
				p.option = func(o *node.Options) { o.Role = node.RoleValidator }
			}
			if k, ok := liars[i]; ok {
				p.lie(k, 2)
			}
			if i == 0 {
				p.start()
			} else {
				p.start(p2ptest.Addr(0))
			}
		}
		var honest []int
		for i := range trainers + validators {
			if _, liar := liars[i]; !liar {
				honest = append(honest, i)
			}
		}
		s.until("done", 30*time.Minute, isDone, honest...)
		got := s.peers[0].convictions(s.peers[0].node.Status().Result)
		for i := range trainers + validators {
			c, convicted := got[s.peers[i].key.Peer()]
			if k, liar := liars[i]; liar != convicted || liar && !slices.Contains(why[k], c.Why) {
				t.Errorf("peer %d, %q: convicted %v, for %q", i, k, convicted, c.Why)
			}
		}
	})
}
