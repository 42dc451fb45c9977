// Package settletest writes chains of final commits with receipts in them, for
// the tests of what is settled from them.
package settletest

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A Script writes a chain of commits as a machine would, without one.
type Script struct {
	t       testing.TB
	Params  settle.Params
	Keys    []*wire.Key // trainers, then validators
	Roles   []string
	Coins   map[wire.PeerID]*audit.Coin
	Commits []*diloco.Commit
	IDs     []wire.CID
	Next    *diloco.Commit // being written
}

// Key is that of the i-th peer.
func Key(t testing.TB, i int) *wire.Key {
	t.Helper()
	k, err := wire.NewKey(bytes.Repeat([]byte{byte(i + 1)}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// CID is that of a text.
func CID(s string, args ...any) wire.CID {
	return wire.SumCID(wire.CodecDagCBOR, fmt.Appendf(nil, s, args...))
}

// New returns a script with its genesis. change may set Params first.
func New(t testing.TB, trainers, validators int, change ...func(*settle.Params)) *Script {
	t.Helper()
	s := &Script{t: t, Coins: map[wire.PeerID]*audit.Coin{}}
	run := CID("run")
	digest, err := chain.Digest(run)
	if err != nil {
		t.Fatal(err)
	}
	s.Params = settle.Params{Run: run, ID: chain.RunID(digest, chain.Address{9}), Book: chain.MemoryBook(1), LateRounds: 2, AuditWindow: 8}
	for _, f := range change {
		f(&s.Params)
	}
	for i := range trainers + validators {
		k := Key(t, i)
		s.Keys = append(s.Keys, k)
		role := "trainer"
		if i >= trainers {
			role = "validator"
			s.Coins[k.Peer()] = coin(k, run)
		}
		s.Roles = append(s.Roles, role)
	}
	g := &diloco.Commit{Version: 1, Run: run}
	s.Add(g)
	return s
}

// coins remembers: each is 262,144 hashes.
var (
	coinsMu sync.Mutex
	coins   = map[wire.PeerID]*audit.Coin{} // guarded by coinsMu
)

func coin(k *wire.Key, run wire.CID) *audit.Coin {
	coinsMu.Lock()
	defer coinsMu.Unlock()
	if coins[k.Peer()] == nil {
		coins[k.Peer()] = audit.NewCoin(k.Secret(), run)
	}
	return coins[k.Peer()]
}

// Add takes c as the next commit.
func (s *Script) Add(c *diloco.Commit) {
	s.t.Helper()
	id, err := c.CID()
	if err != nil {
		s.t.Fatal(err)
	}
	s.Commits, s.IDs = append(s.Commits, c), append(s.IDs, id)
	s.Next = &diloco.Commit{Version: 1, Run: s.Params.Run, Round: c.Round + 1, Parent: id, Cases: slices.Clone(c.Cases)}
	for i, k := range s.Keys {
		m := diloco.Member{Peer: k.Peer(), Role: s.Roles[i], Weight: 1}
		if co := s.Coins[k.Peer()]; co != nil {
			m.Coin = co.At(0)
		}
		for j := range c.Roster {
			m.Banned = m.Banned || c.Roster[j].Peer == m.Peer && c.Roster[j].Banned
		}
		s.Next.Roster = append(s.Next.Roster, m)
	}
}

// Sign makes the receipt of a peer.
func (s *Script) Sign(i int, epoch uint64, kind chain.Kind, subject wire.CID, units uint64) []byte {
	d, err := chain.Digest(subject)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.Params.Book.SignReceipt(s.Keys[i], chain.Receipt{Run: s.Params.ID, Epoch: epoch, Kind: kind, Subject: d, Units: units}).Sig
}

// Delta puts trainer i's delta of round into the next commit.
func (s *Script) Delta(i int, round, epoch, tokens uint64, change ...func(*diloco.Delta)) wire.Signed {
	s.t.Helper()
	d := diloco.Delta{Parent: s.IDs[round], Round: round, State: CID("state"), Block: CID("payload %d %d", i, round), Tokens: tokens, Epoch: epoch}
	if epoch != 0 {
		d.Receipt = s.Sign(i, epoch, chain.Training, d.Block, tokens)
	}
	for _, f := range change {
		f(&d)
	}
	m := s.Say(i, wire.KindDelta, &d)
	s.Next.Deltas = append(s.Next.Deltas, m)
	return m
}

// Verdict puts validator i's passing verdict on a message into the next commit.
func (s *Script) Verdict(i int, of wire.Signed, round, epoch uint64, change ...func(*diloco.Verdict)) {
	s.t.Helper()
	v := diloco.Verdict{Subject: of.ID(), Peer: of.From, Round: round, Epoch: epoch, Coin: s.Coins[s.Keys[i].Peer()].Reveal(round)}
	if epoch != 0 {
		v.Receipt = s.Sign(i, epoch, chain.Validation, v.Subject, 1)
	}
	for _, f := range change {
		f(&v)
	}
	s.Next.Verdicts = append(s.Next.Verdicts, s.Say(i, wire.KindVerdict, &v))
}

// Say signs a message of peer i.
func (s *Script) Say(i int, kind wire.Kind, body any) wire.Signed {
	b, err := wire.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.Keys[i].Sign(kind, s.Params.Run, b)
}

// Ban convicts peer i in the next commit.
func (s *Script) Ban(i int, why string) {
	s.Next.Convicted = append(s.Next.Convicted, diloco.Conviction{Peer: s.Keys[i].Peer(), Why: why, Subject: CID("subject %d", i), Evidence: CID("evidence")})
	s.Next.Roster[i].Banned = true
}

// Commit ends the next commit.
func (s *Script) Commit() { s.t.Helper(); s.Add(s.Next) }

// Round commits what all trainers but those named made in the round before.
func (s *Script) Round(epoch uint64, but ...int) {
	s.t.Helper()
	r := s.Next.Round - 1
	for i := range s.Keys {
		if s.Roles[i] == "trainer" && r > 0 && !slices.Contains(but, i) && !s.Next.Roster[i].Banned {
			s.Delta(i, r, epoch, 1000)
		}
	}
	s.Commit()
}
