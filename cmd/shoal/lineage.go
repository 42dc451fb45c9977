package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/testnet"
)

const (
	lineageFile = "lineage.car"
	maxLineage  = 1 << 40 // bytes of blocks in a lineage file
)

func (a *app) lineageCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:     "lineage",
		Short:   "Check how a model came to be",
		Example: "  shoal lineage verify model/",
	}, a.lineageVerifyCmd())
}

func (a *app) lineageVerifyCmd() *cobra.Command {
	var l lookFlags
	var from uint64
	c := &cobra.Command{
		Use:   "verify RUN|DIR",
		Short: "Recompute every outer step from genesis to the model",
		Long: `Derives the genesis weights from the manifest, checks every signature, vote and roster
of every commit, applies every merged contribution again, and compares each state's
CID. Exit code 0 means that the model is, bit for bit, what the chain says.

DIR is what shoal export wrote: it is checked offline, and so is the chat template where the
run goes on from a model that had one. A RUN is fetched from this data
directory and the swarm.`,
		Example: `  shoal lineage verify model/
  shoal lineage verify moby --from 120     # trust the state of round 120, recompute the rest
  shoal lineage verify model/ --json`,
		Args: exactly("RUN|DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fi, err := os.Stat(args[0]); err == nil && fi.IsDir() {
				return a.verifyDir(cmd.Context(), args[0], from)
			}
			if err := nameable(args[0]); err != nil {
				return usageError{err, "give a run's name or CID, or the directory that `shoal export RUN DIR` wrote, with its " + lineageFile}
			}
			return a.look(cmd.Context(), args[0], &l, func(s *session, at sight) error {
				return s.app.verify(cmd.Context(), node.Lineage{Blocks: s.blocks, Run: at.run, Head: at.tip, From: from, Peers: s.net.Peers()}, nil)
			})
		},
	}
	l.add(c)
	c.Flags().Uint64Var(&from, "from", 0, "begin with the state of this round instead of genesis")
	return c
}

// verifyDir checks an exported directory without a network.
func (a *app) verifyDir(ctx context.Context, dir string, from uint64) error {
	if err := regular(filepath.Join(dir, lineageFile)); err != nil {
		return err
	}
	car, err := os.Open(filepath.Join(dir, lineageFile))
	if errors.Is(err, fs.ErrNotExist) {
		return advise(fmt.Errorf("%s holds no %s", dir, lineageFile), "`shoal export RUN DIR` writes one; weights alone have no history")
	} else if err != nil {
		return err
	}
	defer car.Close()
	tmp, err := os.MkdirTemp("", "shoal-lineage-")
	if err != nil {
		return fmt.Errorf("temporary block store: %w", err)
	}
	defer func() {
		if err := os.RemoveAll(tmp); err != nil {
			slog.Warn("remove the temporary block store", "err", err)
		}
	}()
	store, err := block.Open(tmp, block.Options{NoSync: true, Log: slog.Default()})
	if err != nil {
		return err
	}
	defer store.Close()
	roots, err := store.ImportCAR(ctx, car, maxLineage)
	if err != nil {
		return advise(fmt.Errorf("%s: %w", car.Name(), err), "the file is damaged: export again")
	}
	if len(roots) < 2 {
		return fmt.Errorf("%s: it names no head and run", car.Name())
	}
	b := blocks{store: store}
	return a.verify(ctx, node.Lineage{Blocks: b, Head: roots[0], Run: roots[1], From: from}, func(state wire.CID) error {
		if err := sameFiles(ctx, b, dir, state); err != nil {
			return err
		}
		return a.sameCompanions(ctx, b, roots[1], dir)
	})
}

// verify recomputes the lineage; same, if not nil, compares something with the state
// that comes out.
func (a *app) verify(ctx context.Context, l node.Lineage, same func(state wire.CID) error) error {
	start := time.Now()
	scr := a.screen()
	l.Engine = engines(threads(0))
	l.Progress = func(s node.LineageStep) {
		scr.now(fmt.Sprintf("round %d/%d  %d deltas  state …%s agrees", s.Round, s.Rounds, s.Deltas, s.State.Short()), 5*time.Second)
	}
	l.Fetching = scr.fetching("the model that the run starts from")
	r, err := node.VerifyLineage(ctx, l)
	scr.clear()
	if err != nil {
		return advise(err, "what is missing may be had from the swarm: shoal lineage verify %s --bootstrap ADDRESS", l.Run)
	}
	out := &testnet.Lineage{LineageReport: *r, Seconds: time.Since(start).Seconds()}
	if r.Verified && same != nil {
		if err := same(r.State); err != nil {
			out.Verified, out.Mismatch = false, err.Error()
		}
	}
	if out.Verified {
		if out.Chain, err = chainOf(ctx, l); err != nil {
			return err
		}
	}
	if !out.Verified {
		if a.json {
			if err := a.show(out, ""); err != nil {
				return err
			}
		}
		return advise(fmt.Errorf("lineage of %s is NOT what the chain says: %s", l.Run, out.Mismatch), "do not trust this model; get it from another peer")
	}
	return a.show(out, fmt.Sprintf(`verified: every outer step from %s to the model
  run      %s  %s
  commit   %s  round %d
  state    %s
  %d commits, %d signatures, %d deltas of %d peers, %s tokens, in %.1f s
`, map[bool]string{true: "genesis", false: fmt.Sprintf("round %d", r.From)}[r.From == 0], r.Name, r.Run, r.Head, r.Rounds, r.State,
		r.Commits, r.Signatures, r.Deltas, r.Peers, count(float64(r.Tokens)), out.Seconds))
}

// checkpointFiles are the files whose directory has a state's CID.
var checkpointFiles = []string{node.ConfigFile, node.WeightsFile, node.TokenizerFile, node.MomentumFile, node.PositionFile}

// sameFiles compares the checkpoint in dir with a state's CID.
func sameFiles(ctx context.Context, b node.Blocks, dir string, state wire.CID) error {
	files := map[string]io.Reader{}
	for _, name := range checkpointFiles {
		if err := regular(filepath.Join(dir, name)); err != nil {
			return err
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		files[name] = f
	}
	c, err := b.PutDir(ctx, files)
	if err != nil {
		return err
	}
	if c != state {
		return fmt.Errorf("the files in %s make the state %s, the chain ends with %s", dir, c, state)
	}
	return nil
}

// sameCompanions holds how a model in dir is talked to against the model that its run goes on
// from: a template that somebody changed says other things than the user did. Where
// that had nothing of the kind, nothing is known.
func (a *app) sameCompanions(ctx context.Context, b blocks, run wire.CID, dir string) error {
	m, model, err := node.LoadRun(ctx, b, run, nil)
	if err != nil {
		return err
	}
	want, err := a.beside(ctx, b, m, model.Tokenizer)
	if err != nil || len(want) == 0 { // nothing came with it, or its tokenizer is another
		return err
	}
	for _, name := range companions {
		got, err := optional(dir, name, maxCompanion)
		if err != nil {
			return err
		}
		own := name == tokenizerConfigFile && want[name] == nil // export made it
		if !own && !bytes.Equal(got, want[name]) {
			return fmt.Errorf("%s in %s is not that of the model that the run goes on from", name, dir)
		}
	}
	return nil
}

// chainOf lists the commits of a verified lineage, the oldest first.
func chainOf(ctx context.Context, l node.Lineage) (out []testnet.LineageCommit, err error) {
	for at := l.Head; at.Defined(); {
		b, err := l.Blocks.Get(ctx, at)
		if err != nil {
			return nil, err
		}
		c, err := diloco.DecodeCommit(b)
		if err != nil {
			return nil, err
		}
		k := testnet.LineageCommit{Round: c.Round, Commit: at, State: c.State, Weak: c.Weak}
		for _, v := range c.Votes {
			k.Votes = append(k.Votes, v.From)
		}
		for _, m := range c.Roster {
			if !m.Banned {
				k.Roster = append(k.Roster, m.Peer)
			}
		}
		k.Cases, k.Convicted = c.Cases, c.Convicted
		for i := range c.Verdicts {
			m, err := diloco.Open(&c.Verdicts[i])
			if err != nil {
				return nil, err
			}
			if v, ok := m.Body.(*diloco.Verdict); ok {
				k.Verdicts = append(k.Verdicts, testnet.LineageVerdict{ID: m.ID, From: m.From, Subject: v.Subject, Peer: v.Peer, Round: v.Round,
					Segment: v.Segment, Finding: testnet.FindingName(v.Finding), Evidence: v.Evidence, Coin: len(v.Coin) > 0})
			}
		}
		for i := range c.Deltas {
			m, err := diloco.Open(&c.Deltas[i])
			if err != nil {
				return nil, err
			}
			if d, ok := m.Body.(*diloco.Delta); ok {
				k.Deltas = append(k.Deltas, testnet.LineageDelta{
					ID: m.ID, Block: d.Block, Peer: m.From, Parent: d.Parent, Round: d.Round, Bytes: d.Bytes, Tokens: d.Tokens, Loss: d.Loss})
			}
		}
		out = append(out, k)
		at = c.Parent
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out, nil
}
