package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/control"
	"github.com/shoalnet/shoal/p2p/wire"
)

// anyPort is where a peer listens that only fetches something.
var anyPort = []string{"/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0"}

// visit enters the swarm for a while, to fetch. Where a node runs with this
// data directory, which holds its lock, the visitor is another peer with a
// directory of its own that begins with that node; running is its status then.
func (a *app) visit(ctx context.Context, kf *keyFlags, nf *netFlags) (s *session, running *status, err error) {
	own := *nf
	if len(own.listen) == 0 {
		own.listen = anyPort
	}
	running, err = a.running(ctx)
	if errors.Is(err, control.ErrNotRunning) {
		s, err = a.enter(&own, func() (*wire.Key, error) { return a.openOrMakeKey(kf) })
		return s, nil, err
	} else if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "shoal-visit-")
	if err != nil {
		return nil, nil, fmt.Errorf("temporary data directory: %w", err)
	}
	guest := *a
	guest.dir = dir
	own.bootstrap = append(own.bootstrap, running.Addrs...)
	s, err = guest.enter(&own, func() (*wire.Key, error) {
		secret := make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			return nil, err
		}
		return wire.NewKey(secret)
	})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	unlock := s.unlock
	s.unlock = func() {
		unlock()
		if err := os.RemoveAll(dir); err != nil {
			slog.Warn("remove the temporary data directory", "err", err)
		}
	}
	return s, running, nil
}

// findNear is find for a visitor: the node that runs here knows its run's name.
func (s *session) findNear(ctx context.Context, name string, running *status, patience time.Duration) (wire.CID, error) {
	if running != nil && running.Name == name {
		return running.Run, nil
	}
	return s.find(ctx, name, min(patience, hearing))
}

// lookFlags are those of the commands that look at a run's commits.
type lookFlags struct {
	kf       keyFlags
	nf       netFlags
	patience time.Duration
}

func (l *lookFlags) add(c *cobra.Command) {
	l.kf.add(c)
	l.nf.add(c)
	c.Flags().DurationVar(&l.patience, "timeout", 2*time.Minute, "how long to look for the run")
}

// A sight is a run and where it stands.
type sight struct {
	run, tip wire.CID
	running  *status // of the node that runs here, nil where none does
}

// look visits the swarm, finds a run and where it stands, and runs f.
func (a *app) look(ctx context.Context, name string, l *lookFlags, f func(*session, sight) error) (err error) {
	if err := nameable(name); err != nil {
		return err
	}
	s, running, err := a.visit(ctx, &l.kf, &l.nf)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	at := sight{running: running}
	if at.run, err = s.findNear(ctx, name, running, l.patience); err != nil {
		return err
	}
	if at.tip, err = s.tip(ctx, at.run, running, l.patience); err != nil {
		return err
	}
	return f(s, at)
}

// settled is how long the observer follows before its position counts as the swarm's.
const settled = 2 * time.Second

// tip finds the commit of a run to trace or to take out: the last where
// the run is over, else the last final one. It follows the run as an observer
// until that is known.
func (s *session) tip(ctx context.Context, run wire.CID, running *status, patience time.Duration) (wire.CID, error) {
	if running != nil && running.Run == run && running.FinalRound > 0 {
		if err := s.meet(ctx); err != nil {
			return "", err
		}
		if running.Done {
			return running.Result, nil
		}
		return running.Final, nil
	}
	n, err := node.New(node.Options{
		Dir: s.app.dir, Key: s.key, Run: run, Net: s.net, Blocks: s.blocks, Board: s.board,
		Engine: engines(threads(0)), Observe: true, Prune: true, ValEvery: 1 << 40, Log: slog.Default(),
	})
	if err != nil {
		return "", err
	}
	own, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(own) }()
	c, err := s.watchTip(own, n, ended)
	cancel()
	if err == nil {
		err = <-ended
	}
	return c, err
}

// meet waits until the first peer is connected.
func (s *session) meet(ctx context.Context) error {
	limit := time.NewTimer(hearing)
	defer limit.Stop()
	tick := time.NewTicker(redraw / 5)
	defer tick.Stop()
	for len(s.net.Peers()) == 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("interrupted")
		case <-limit.C:
			return noPeers("fetch")
		case err := <-s.failed:
			return err
		}
	}
	return nil
}

// watchTip waits until the observer n knows where the run stands.
func (s *session) watchTip(ctx context.Context, n *node.Node, ended chan error) (wire.CID, error) {
	scr := s.app.screen()
	defer scr.clear()
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	var was node.Status
	var since time.Time
	for {
		select {
		case err := <-ended:
			if err == nil {
				err = errors.New("the observer ended before the run was found")
			}
			ended <- nil
			if ctx.Err() != nil {
				err = s.lost(was)
			}
			return "", err
		case err := <-s.failed:
			return "", err
		case <-tick.C:
		}
		st := n.Status()
		switch {
		case st.Done:
			return st.Result, nil
		case st.FinalRound == 0 || st.Phase == node.Syncing || st.Phase == node.FindingPeers || was.FinalRound == 0:
			since = time.Now()
		case time.Since(since) > settled && (st.Round < st.Rounds || st.Phase == node.Closing), time.Since(since) > 10*settled: // or it is about to be over
			return st.Final, nil
		}
		was = st
		scr.now(standing(st), 5*time.Second)
	}
}

// lost says why a run's position was not found.
func (s *session) lost(st node.Status) error {
	switch {
	case len(s.net.Peers()) == 0 && st.Round == 0:
		return noPeers("find the run")
	case st.Trouble != "":
		return advise(errors.New(st.Trouble), "the peers that were found do not serve the run: --bootstrap with a peer of it")
	case st.FinalRound == 0:
		return advise(fmt.Errorf("no commit of the run is final yet (it stands at round %d)", st.Round), "try again when it has gone on for some rounds")
	}
	return errors.New("the run's position was not settled in time")
}
