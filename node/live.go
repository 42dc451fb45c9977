package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/journal"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// RunConfig returns what a manifest fixes about the chain of its run.
func RunConfig(run wire.CID, m *manifest.Manifest) diloco.Config {
	return diloco.Config{
		Run:         run,
		MinPeers:    m.Admission.MinPeers,
		Deadline:    m.Round.Deadline,
		DropAfter:   m.Round.DropAfter,
		LeakAfter:   m.Round.LeakAfter,
		LateRounds:  m.Round.LateRounds,
		StopRound:   m.Stop.Rounds,
		WindowsEach: m.WindowsPerRound(),
		AuditRate:   m.Verification.AuditRate,
		Segments:    m.Verification.Segments,
		Every:       audit.Every(m.Round.InnerSteps, m.Verification.Segments),
		AuditWindow: m.Verification.Window,
		Admit:       func(_ wire.PeerID, addr [20]byte) bool { return m.Admission.Allows(addr) },
	}
}

// openJournal opens the node's journal, with what could be read after a damage.
func (n *Node) openJournal() (journalFile, []journal.Record, error) {
	if n.opt.openJournal != nil {
		return n.opt.openJournal()
	}
	j, recs, err := journal.Open(filepath.Join(n.opt.Dir, journalDir))
	if err != nil {
		return nil, nil, err
	}
	if r := j.Report(); r.String() != "" {
		n.opt.Log.Warn(r.String())
		recs = append(recs, r.Salvaged...)
		if r.CorruptFile != "" {
			recs = append(recs, journal.Record{Type: recDamaged})
		}
	}
	return j, recs, nil
}

// mutedRounds is after how many rounds beyond the last that a peer without its journal
// can know of it may speak: it may have worked on the next one, and attested to that.
const mutedRounds = 2

// live runs the machine and all around it until ctx ends.
func (n *Node) live(ctx context.Context, cancel context.CancelCauseFunc, p *parts) (err error) {
	log := n.opt.Log
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ledger, err := openLedger(n.openJournal, n.opt.Run, audit.Memory(p.manifest.Verification.Window), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ledger.close()) }()
	hist, err := openHistory(filepath.Join(n.opt.Dir, historyFile), log)
	if err != nil {
		return err
	}
	book := &chronicle{file: hist, log: log}
	defer book.flush()

	cfg := RunConfig(n.opt.Run, p.manifest)
	cfg.Self, cfg.Address, cfg.Role = n.self, n.address, n.opt.Role
	forgot := ledger.forgot || hist.last.Round > ledger.last.Round // the end of the journal is gone
	if last := max(ledger.last.Round, hist.last.Round, p.keeper.latest("commit")); forgot && last > 0 && !n.opt.Observe {
		cfg.Mute = last + mutedRounds
		err := fmt.Errorf("the journal in %s was lost or damaged, so this peer does not know all that it said; it says nothing before round %d, since who contradicts itself is evicted, and then goes on by itself", n.opt.Dir, cfg.Mute)
		log.Warn(err.Error())
		n.meter.trouble("journal", err)
	}
	var aud *auditor
	if n.opt.Role == RoleValidator && !n.opt.Observe {
		if aud, err = n.newAuditor(ctx, p); err != nil {
			return err
		}
		cfg.Coin = aud.coin
	}
	if n.opt.Observe {
		cfg.Role = "observer"
	}
	if n.opt.Stake != nil {
		all := p.manifest.Admission.Kind == "stake"
		cfg.Stake = func(p wire.PeerID, role string) diloco.Standing {
			if v := role == RoleValidator; v || all {
				return n.opt.Stake(p, v)
			}
			return diloco.Staked // none is asked
		}
	}
	states := &states{model: p.model, blocks: n.opt.Blocks}
	chain, err := n.recover(ctx, p, states, ledger.last)
	if err != nil {
		return err
	}
	if len(chain) == 0 && len(ledger.own) > 0 {
		chain = []*diloco.Commit{p.genesis} // it spoke, and adopted nothing yet
	}
	machine := diloco.New(cfg, p.genesis)
	var first []diloco.Effect
	if len(chain) > 0 {
		first = machine.Restore(time.Now(), chain, ledger.messages())
		first = append(first, machine.Recall(ledger.last.Final)...)
		log.Info("resumed", "round", chain[len(chain)-1].Round, "own messages", len(ledger.own))
	} else {
		first = machine.Start(time.Now())
	}

	patience := n.opt.Patience
	if patience <= 0 {
		patience = max(10*time.Second, p.manifest.Round.Deadline)
	}
	o := &owner{
		run: n.opt.Run, key: n.opt.Key, log: log, meter: n.meter,
		model: p.model, claims: claimsOf(p.manifest, p.model), blocks: n.opt.Blocks, states: states, keeper: p.keeper,
		patience: patience, muted: cfg.Mute,
		events: make(chan diloco.Event, 64), asks: make(chan func(), 64), over: make(chan struct{}),
		outbox: newOutbox(log), merge: make(chan struct{}, 1),
		machine: machine, journal: ledger, purse: purse{payer: n.opt.Payer},
	}
	for _, e := range ledger.evidence { // what convicted others before convicts them again
		body, err := wire.Marshal(&e)
		if err != nil {
			return fmt.Errorf("journal: evidence: %w", err)
		}
		o.inner = append(o.inner, diloco.Heard{Msg: n.opt.Key.Sign(wire.KindEvidence, n.opt.Run, body)})
	}
	t := &trainer{
		run: n.opt.Run, self: n.self, dir: filepath.Join(n.opt.Dir, innerDir), plan: p.plan,
		model: p.model, states: states, blocks: n.opt.Blocks, engine: p.engine, data: p.data,
		meter: n.meter, log: log, wake: make(chan struct{}, 1),
		emit: func(ev diloco.Event) { o.tell(ctx, ev) },
	}
	if t.debts, err = openDebts(t.dir, n.opt.Run, n.self, p.model.Codec, n.opt.Blocks, log); err != nil {
		return err
	}
	if p.manifest.Verification.AuditRate > 0 {
		t.trace = newTracer(t, p)
		t.debts.tracer = t.trace
	}
	if err := n.reconcile(ctx, t.debts, ledger, chain); err != nil {
		return err
	}
	n.meter.setContributed(t.debts.counted)
	o.trainer = t
	l := &listener{run: n.opt.Run, self: n.self, net: n.opt.Net, owner: o, meter: n.meter, log: log, newHead: time.Now()}
	if l.topic, err = n.opt.Net.Join(RunTopic(n.opt.Run), l.judge); err != nil {
		return fmt.Errorf("join the run's topic: %w", err)
	}
	defer l.topic.Close()
	o.peers = l.topic.Peers
	p.data.peers = l.topic.Peers
	s := &steward{node: n, parts: p, owner: o, listener: l, trainer: t, book: book, cancel: cancel, wake: make(chan struct{}, 1), more: make(chan struct{}, 1)}
	s.lastIn, s.lastOut = n.opt.Net.Bandwidth()
	if s.auditor = aud; aud != nil {
		aud.tell = o.tell
		aud.patience, aud.replayer.patience = patience, audit.Asking
		aud.recall(ledger.own)
		aud.replayer.from = func(accused wire.PeerID) []wire.PeerID { return o.sources([]wire.PeerID{accused}) }
		aud.replayer.data.peers = l.topic.Peers
		aud.replayer.commit = func(ctx context.Context, c wire.CID) (*diloco.Commit, error) {
			return getCommit(ctx, o.blocks, c, o.sources())
		}
	}
	o.proofs = n.opt.Dir
	o.onHead, o.onFinal, o.onDone = s.onHead, s.onFinal, s.onDone
	if len(chain) > 0 {
		s.resume(chain[len(chain)-1], ledger.last.Head)
	}
	o.publishStatus()

	n.mu.Lock()
	n.owner, n.topic = o, l.topic
	n.mu.Unlock()
	n.opt.Net.Handle(SyncProto, maxSyncAsk, l.respond)
	n.announce(ctx, p.manifest.Name)

	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	work.Go(func() { o.outbox.loop(ctx, l.topic) })
	work.Go(func() { l.drain(ctx) })
	work.Go(func() { l.loop(ctx) })
	work.Go(func() { s.loop(ctx) })
	work.Go(func() { s.backfill(ctx) })
	if !n.opt.Observe {
		p.data.prefetch(ctx, &work)
	}
	work.Go(func() { t.loop(ctx) })
	if aud != nil {
		work.Go(func() { aud.loop(ctx) })
	}
	return o.loop(ctx, first)
}

// farewell tells the roster that this peer goes, and gives the swarm a moment
// to hear it.
func (n *Node) farewell(ctx context.Context) {
	n.mu.Lock()
	o := n.owner
	n.mu.Unlock()
	if o == nil || n.opt.Observe {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	o.tell(ctx, diloco.LeaveAsked{})
	for quiet := 0; quiet < 3; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(leaveLook):
		}
		idle, ok := ask(ctx, o, func() bool {
			return len(o.queue) == 0 && len(o.inner) == 0 && len(o.events) == 0 && len(o.outbox.queue) == 0
		})
		if !ok {
			return
		}
		if quiet++; !idle {
			quiet = 0
		}
	}
}

// How long a goodbye may take, and how often it is looked whether it is said.
const (
	leaveTimeout = 5 * time.Second
	leaveLook    = 200 * time.Millisecond
)
