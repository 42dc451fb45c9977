package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/agent"
	"github.com/shoalnet/shoal/chain/evm"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/gossip"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Files of the settlement in the data directory.
const (
	settleDir    = "settle"                   // of the agent
	settleFlight = "settle/chain.flight.json" // its transactions that are sent and not yet safe
)

// deployed reads which ledger this data directory settles on; nil if none.
func (a *app) deployed() (*deployment, error) {
	b, err := readBounded(a.path(chainFile), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("deployment: %w", err)
	}
	d := new(deployment)
	if err := hf.Unmarshal(b, d); err != nil {
		return nil, advise(fmt.Errorf("deployment: %s: %w", a.path(chainFile), err), "the file is damaged: copy the swarm's %s again", chainFile)
	}
	return d, nil
}

// A counter is where a node has its receipts made. It exists before the agent,
// which needs the manifest, and outlives every trouble with the ledger.
type counter struct {
	where *deployment
	known chan *manifest.Manifest // told once, by the node

	agent   atomic.Pointer[agent.Agent] // nil until the ledger has answered once
	sender  atomic.Pointer[evm.Sender]  // as agent
	trouble atomic.Value                // string: why there is no agent yet
}

func newCounter(d *deployment) *counter {
	return &counter{where: d, known: make(chan *manifest.Manifest, 1)}
}

// Sign implements node.Payer.
func (c *counter) Sign(kind uint8, subject wire.CID, units uint64) (uint64, []byte) {
	if a := c.agent.Load(); a != nil {
		return a.Sign(kind, subject, units)
	}
	return 0, nil
}

// stake implements node.Options.Stake.
func (c *counter) stake(p wire.PeerID, validator bool) diloco.Standing {
	if a := c.agent.Load(); a != nil {
		return a.Standing(p, validator)
	}
	return diloco.Unknown
}

func (c *counter) judge(ctx context.Context, from wire.PeerID, data []byte) wire.Judgement {
	if a := c.agent.Load(); a != nil {
		return a.Judge(ctx, from, data)
	}
	return wire.Ignore
}

// status is what `shoal status` says of the ledger, nil where there is none.
func (c *counter) status() *agent.Status {
	if c == nil {
		return nil
	}
	if a := c.agent.Load(); a != nil {
		s := a.Status()
		if send := c.sender.Load(); send != nil {
			for _, l := range send.Losses() {
				s.Lost = append(s.Lost, l.String())
			}
		}
		return &s
	}
	s := &agent.Status{Earned: chain.Int(0)}
	s.Trouble, _ = c.trouble.Load().(string)
	return s
}

// finals is agent.Commits made of a node.
type finals struct{ *node.Finals }

func (f finals) After(ctx context.Context, after wire.CID, max int) ([]agent.Link, error) {
	cs, err := f.Finals.After(ctx, after, max)
	out := make([]agent.Link, len(cs))
	for i, c := range cs {
		out[i] = agent.Link{CID: c.CID, Commit: c.Commit}
	}
	return out, err
}

// leaves is agent.Files made of the block store: the latest stay pinned.
type leaves struct{ blocks }

func (l leaves) PutFile(ctx context.Context, data []byte) (wire.CID, error) {
	c, err := l.blocks.PutFile(ctx, data)
	if err == nil {
		err = l.Pin("settle/leaves", c)
	}
	return c, err
}

// runOnLedger is the run's ID there: its sponsor has signed the manifest.
func runOnLedger(run wire.CID, m *manifest.Manifest) (chain.Hash, error) {
	if m.Sponsor == nil {
		return chain.Hash{}, advise(errors.New("the manifest has no sponsor, so the run is on no ledger"), "`shoal manifest sign` signs one before it is published")
	}
	d, err := chain.Digest(run)
	return chain.RunID(d, chain.Address(m.Sponsor.Address)), err
}

// pace is how often a chain is asked, and how long after an epoch its word is safe.
func (d *deployment) pace() (poll time.Duration, margin uint64) {
	if d.Preset == "dev" {
		return time.Second, 5
	}
	return 15 * time.Second, 300
}

// settle runs the agent beside a node until ctx ends. Whatever is wrong with the
// ledger, the node goes on.
func (s *session) settle(ctx context.Context, c *counter, run wire.CID, n *node.Node, role string) {
	var m *manifest.Manifest
	select {
	case m = <-c.known:
	case <-ctx.Done():
		return
	}
	for told := ""; ctx.Err() == nil; {
		err := s.settleOn(ctx, c, run, m, n, role)
		if err == nil || ctx.Err() != nil {
			return
		}
		c.trouble.Store(err.Error())
		if told != err.Error() {
			told = err.Error()
			slog.Warn("nothing is settled", "err", err)
		}
		again := time.NewTimer(5 * time.Second)
		select {
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
	}
}

func (s *session) settleOn(ctx context.Context, c *counter, run wire.CID, m *manifest.Manifest, n *node.Node, role string) error {
	d := c.where
	id, err := runOnLedger(run, m)
	if err != nil {
		return err
	}
	cl, err := dialChain(ctx, d.Preset, d.URL, d.Book.ChainID)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.app.path(settleDir), 0o700); err != nil {
		return fmt.Errorf("settlement: %w", err)
	}
	send, err := evm.NewSender(cl, s.key, evm.SenderOptions{File: s.app.path(settleFlight), Alarm: big.NewInt(1e15),
		OnLow: func(who common.Address, wei *big.Int) {
			slog.Warn("little ether is left for gas", "account", who, "ether", chain.FormatAmount(wei))
		},
		OnLoss: func(l evm.Loss) {
			slog.Warn("the chain has lost a transaction", "what", l.What, "tx", l.Tx, "why", l.Why)
		}})
	if err != nil {
		return err
	}
	l, err := evm.Open(ctx, cl, d.Book, send)
	if err != nil {
		return err
	}
	topic, err := s.net.Join(gossip.SettleTopic(run), c.judge)
	if err != nil {
		return err
	}
	defer topic.Close()
	least, ok := new(big.Int).SetString(m.Admission.MinStake, 10)
	if !ok {
		return fmt.Errorf("the manifest's admission.min_stake %q is no number", m.Admission.MinStake)
	}
	if why := d.outrun(m); why != "" && d.Preset != "dev" {
		slog.Warn("convicts may keep their stake", "why", why)
	}
	poll, margin := d.pace()
	window := m.Verification.Window
	if m.Verification.AuditRate == 0 {
		window = 0
	}
	a, err := agent.New(agent.Options{
		Key: s.key, Ledger: l, Commits: finals{n.Finals()}, Dir: s.app.path(settleDir), Topic: topic, Files: leaves{s.blocks},
		Params: settle.Params{Run: run, ID: id, Book: d.Book, LateRounds: m.Round.LateRounds,
			AuditWindow: window, Stop: m.Stop.Rounds},
		Evidence: func(p wire.PeerID) (diloco.Evidence, bool) {
			e, err := readEvidence(node.EvidenceFile(s.app.dir, p))
			return e, err == nil
		},
		Validate: role == node.RoleValidator, Minimum: d.Config.Minimum, MinTrainer: least, Bond: d.Config.Bond, ChallengeBond: d.Config.ChallengeBond,
		Poll: poll, Turn: 8 * poll, Margin: margin, Log: slog.Default(),
	})
	if err != nil {
		return err
	}
	c.agent.Store(a)
	c.sender.Store(send)
	var work sync.WaitGroup
	defer work.Wait()
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	work.Go(func() {
		// What an earlier process left in flight, or the chain has lost, holds the nonces of all that follows.
		send.Tend(own, func(err error) { slog.Warn("transactions in flight", "err", err) })
	})
	return a.Run(ctx)
}

// derived is what this peer's agent worked out, and the run's last epoch that the
// ledger has settled.
func (t *teller) derived(ctx context.Context) ([]agent.EpochFile, *chain.Settled, error) {
	fs, err := agent.Epochs(t.a.path(settleDir))
	if err != nil {
		return nil, nil, err
	}
	for i := len(fs) - 1; i >= 0; i-- {
		x := fs[i].Settled
		if x == nil {
			continue
		}
		final, err := t.ledger.Final(ctx, x.Epoch.Run)
		if err != nil {
			return nil, nil, err
		}
		if final.Rewards == x.Epoch.Rewards {
			return fs, x, nil
		}
		return nil, nil, advise(fmt.Errorf("epoch %d is the last that is final, and this peer has worked out %d", final.Epoch, x.Epoch.Number),
			"let `shoal join` catch up, or give the epoch's file")
	}
	return nil, nil, advise(errors.New("this peer has worked out no epoch that the ledger has settled"),
		"it does while `shoal join` or `shoal publish` runs with a ledger; or give an epoch's file")
}

// why lists what each piece of an account's work earned, or why it earned nothing.
func why(b *strings.Builder, fs []agent.EpochFile, who chain.Address, self wire.PeerID) (lines []settle.Line) {
	for _, f := range fs {
		for _, l := range f.Lines {
			if l.Account != who && l.Peer != self {
				continue
			}
			lines = append(lines, l)
			what := fmt.Sprintf("%d units of %s", l.Units, l.Kind)
			if l.Units == 0 {
				what = "no work"
			}
			if l.Why != "" {
				fmt.Fprintf(b, "epoch %d, round %d: %s, nothing: %s\n", l.Epoch, l.Round, what, l.Why)
			} else {
				fmt.Fprintf(b, "epoch %d, round %d: %s, %s\n", l.Epoch, l.Round, what, chain.FormatAmount(l.Amount))
			}
		}
	}
	return lines
}
