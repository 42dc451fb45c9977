package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Node is one peer of one run. Create it with New and run it once.
type Node struct {
	opt     Options
	self    wire.PeerID
	address [20]byte
	meter   *meter
	board   *Board
	started time.Time
	leave   chan struct{} // closed by Leave
	leaving sync.Once
	ran     atomic.Bool

	mu                  sync.Mutex // guards the following
	phase               Phase      // until the owner runs
	manifest            *manifest.Manifest
	owner               *owner
	topic               Topic
	head                *diloco.Commit
	final               *diloco.Commit
	runTotal            uint64 // tokens merged up to the head
	done                bool
	result, resultState wire.CID // of the run's last commit, once done
}

// New checks the options. Nothing runs and nothing is opened before Run.
func New(opt Options) (*Node, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	addr, err := opt.Key.Peer().Address()
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	now := time.Now()
	return &Node{
		opt: opt, self: opt.Key.Peer(), address: addr,
		meter: newMeter(now), started: now, phase: FindingPeers,
		leave: make(chan struct{}), manifest: opt.Manifest,
	}, nil
}

// Leave asks the node to say goodbye to the roster and then to end Run. It
// returns at once and may be called more than once.
func (n *Node) Leave() { n.leaving.Do(func() { close(n.leave) }) }

// Runs lists the runs that the node has heard of.
func (n *Node) Runs() []Listing {
	n.mu.Lock()
	b := n.board
	n.mu.Unlock()
	if b == nil {
		return nil
	}
	return b.List()
}

// Members are the peers of the head's roster, for a policy of who is served.
func (n *Node) Members() []wire.PeerID {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.head == nil {
		return nil
	}
	out := make([]wire.PeerID, len(n.head.Roster))
	for i, m := range n.head.Roster {
		out[i] = m.Peer
	}
	return out
}

// Status says how the node is doing.
func (n *Node) Status() Status {
	s := Status{
		Peer: n.self, Address: manifest.Address(n.address).String(), Run: n.opt.Run,
		Started: n.started, Rejections: map[string]uint64{},
	}
	n.meter.fill(&s)
	s.BytesIn, s.BytesOut = n.opt.Net.Bandwidth()
	n.mu.Lock()
	defer n.mu.Unlock()
	s.Phase, s.Done, s.RunTokens = n.phase, n.done, n.runTotal
	if m := n.manifest; m != nil {
		s.Name, s.Rounds, s.InnerSteps, s.MinPeers = m.Name, m.Stop.Rounds, m.Round.InnerSteps, m.Admission.MinPeers
	}
	if n.topic != nil {
		s.Peers = len(n.topic.Peers())
	}
	if n.head != nil {
		s.Weak, s.Roster, s.Cases = n.head.Weak, len(n.head.Roster), n.head.Cases
		for _, m := range n.head.Roster {
			if m.Peer == n.self {
				s.Role, s.Missed = m.Role, m.Missed
			}
			if m.Banned {
				s.Banned = append(s.Banned, m.Peer)
			}
		}
	}
	if n.owner != nil {
		v := n.owner.view()
		if n.final != nil && n.final.Round == v.FinalRound { // the view may be ahead by an effect
			s.FinalState = n.final.State
		}
		s.Phase, s.Round, s.Head, s.State = Phase(v.Phase), v.Round, v.Head, v.State
		s.Final, s.FinalRound, s.Evicted = v.Final, v.FinalRound, v.Convicted
		for k, c := range v.Rejected {
			s.Rejections[k] += c
		}
	}
	if m := n.manifest; m != nil {
		s.Suspects = slices.DeleteFunc(s.Suspects, func(x Suspicion) bool { return x.Round+m.Verification.Window < s.Round })
	}
	s.Result, s.ResultState = n.result, n.resultState
	if s.Done {
		s.Phase = Finished
	}
	return s
}

// Run runs the node until ctx ends, until it has left, or, with ExitWhenDone,
// until the run is over; these return nil. When it returns nothing of the node
// is left running. An error says what the node cannot do without.
func (n *Node) Run(ctx context.Context) error {
	if n.ran.Swap(true) {
		return errors.New("node: Run was called before")
	}
	if err := os.MkdirAll(filepath.Join(n.opt.Dir, innerDir), 0o700); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if err := removeTemps(filepath.Join(n.opt.Dir, innerDir)); err != nil {
		return fmt.Errorf("node: clear temporary files: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel(nil)

	if err := n.runBoard(ctx, &work); err != nil {
		return err
	}
	n.opt.Net.Rendezvous(RunSpace(n.opt.Run))
	work.Go(func() {
		select {
		case <-n.leave:
			n.farewell(ctx)
			cancel(errLeft)
		case <-ctx.Done():
		}
	})
	p, err := n.prepare(ctx)
	if err != nil {
		return n.ending(ctx, err)
	}
	return n.ending(ctx, n.live(ctx, cancel, p))
}

var (
	errLeft = errors.New("left the run")
	errOver = errors.New("the run is over")
)

// ending turns the ways in which Run is meant to end into nil.
func (n *Node) ending(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
		return nil
	}
	return fmt.Errorf("node: %w", err)
}

// runBoard makes the board of runs, where none is given, and tells of the run.
func (n *Node) runBoard(ctx context.Context, work *sync.WaitGroup) error {
	b := n.opt.Board
	if b == nil {
		var err error
		if b, err = NewBoard(n.opt.Net, n.opt.Log); err != nil {
			return fmt.Errorf("node: %w", err)
		}
		work.Go(func() {
			if err := b.Run(ctx); err != nil {
				n.opt.Log.Warn("board of runs", "err", err)
			}
		})
	}
	n.mu.Lock()
	n.board = b
	n.mu.Unlock()
	return nil
}

// announce puts the run on the board, once its name is known.
func (n *Node) announce(ctx context.Context, name string) {
	err := n.board.Announce(ctx, n.opt.Key, n.opt.Run, name, func() uint64 {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.head == nil {
			return 0
		}
		return n.head.Round
	})
	if err != nil {
		n.opt.Log.Info("announce the run", "err", err)
	}
}
