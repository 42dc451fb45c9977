package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/wire"
)

func (a *app) exportCmd() *cobra.Command {
	var l lookFlags
	c := &cobra.Command{
		Use:   "export RUN DIR",
		Short: "Write a run's model, and its lineage, to a directory",
		Long: `Writes the model of the run's last final commit as Hugging Face transformers load it
(config.json, model.safetensors, tokenizer.json, and what the model that it went on from had
for talking to it), the outer optimizer's momentum, and lineage.car: every commit and contribution since genesis, so that anybody can verify
the directory offline.

What is not in this data directory is fetched from the swarm. A peer that runs with it
may go on.`,
		Example: `  shoal export moby model/
  shoal lineage verify model/
  python -c 'import transformers; transformers.AutoModelForCausalLM.from_pretrained("model")'`,
		Args: exactly("RUN", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := emptyDir(args[1]); err != nil {
				return err
			}
			return a.look(cmd.Context(), args[0], &l, func(s *session, at sight) error {
				return s.export(cmd.Context(), at.run, at.tip, args[1])
			})
		},
	}
	l.add(c)
	return c
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		return advise(fmt.Errorf("%s is not empty", dir), "choose a new directory")
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// export collects the model and all that it came of, and writes them out.
func (s *session) export(ctx context.Context, run, head wire.CID, dir string) error {
	peers := s.net.Peers()
	m, model, err := node.LoadRun(ctx, s.blocks, run, peers)
	if err != nil {
		return err
	}
	commit, roots, err := s.gather(ctx, run, m, model, head, peers)
	if err != nil {
		return fmt.Errorf("lineage: %w", err)
	}
	if err := s.blocks.FetchDir(ctx, commit.State, peers, model.Limit(), nil); err != nil {
		return fmt.Errorf("state of round %d: %w", commit.Round, err)
	}
	files, err := s.blocks.OpenDir(ctx, commit.State, model.Limit())
	if err != nil {
		return err
	}
	if err := model.CheckFiles(files); err != nil {
		return fmt.Errorf("state of round %d: %w", commit.Round, err)
	}
	beside, err := s.app.beside(ctx, s.blocks, m, model.Tokenizer)
	if err != nil {
		return err
	}
	if err := s.writeModel(ctx, dir, files, beside, model, roots); err != nil {
		return err
	}
	return s.app.show(struct {
		Run    wire.CID `json:"run"`
		Name   string   `json:"name"`
		Round  uint64   `json:"round"`
		Commit wire.CID `json:"commit"`
		State  wire.CID `json:"state"`
		Dir    string   `json:"dir"`
	}{run, m.Name, commit.Round, head, commit.State, dir},
		fmt.Sprintf("%s, round %d of %d\n  commit  %s\n  state   %s\n  files   %s\nverify it with: shoal lineage verify %s\n", m.Name, commit.Round, m.Stop.Rounds, head, commit.State, dir, dir))
}

// gather brings every block of the lineage into the store and lists them, the
// head and the manifest first: the roots of lineage.car.
func (s *session) gather(ctx context.Context, run wire.CID, m *manifest.Manifest, model *node.Model, head wire.CID, peers []wire.PeerID) (*diloco.Commit, []wire.CID, error) {
	roots := []wire.CID{head, run, m.Tokenizer}
	scr := s.app.screen()
	defer scr.clear()
	if m.Model.Base.Defined() {
		if err := s.blocks.FetchDir(ctx, m.Model.Base, peers, node.BaseLimit(model.Tensors), scr.fetching("the model that the run started from")); err != nil {
			return nil, nil, err
		}
		roots = append(roots, m.Model.Base)
	}
	var first *diloco.Commit
	var payloads []wire.CID
	seen := map[wire.CID]bool{}
	for at := head; at.Defined(); {
		b, err := s.blocks.Fetch(ctx, at, peers, block.MaxBlock)
		if err != nil {
			return nil, nil, fmt.Errorf("commit %s: %w", at, err)
		}
		c, err := diloco.DecodeCommit(b)
		if err != nil {
			return nil, nil, fmt.Errorf("commit %s: %w", at, err)
		}
		if first == nil {
			first = c
		} else {
			roots = append(roots, at)
		}
		for _, w := range c.Merged() {
			if !seen[w.Block] {
				seen[w.Block] = true
				payloads = append(payloads, w.Block)
			}
		}
		scr.now(fmt.Sprintf("commits: down to round %d", c.Round), 5*time.Second)
		at = c.Parent
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, c := range payloads {
		g.Go(func() error {
			if _, err := s.blocks.FetchFile(gctx, c, peers, int64(model.Codec.Size())); err != nil {
				return fmt.Errorf("payload %s: %w", c, err)
			}
			return nil
		})
		scr.now(fmt.Sprintf("contributions: %d of %d", i, len(payloads)), 5*time.Second)
	}
	return first, append(roots, payloads...), g.Wait()
}

// writeModel writes the directory; a failure leaves none.
func (s *session) writeModel(ctx context.Context, dir string, files map[string]*io.SectionReader, beside map[string][]byte, model *node.Model, roots []wire.CID) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			if rerr := os.RemoveAll(dir); rerr != nil {
				slog.Warn("remove a half-written export", "err", rerr)
			}
		}
	}()
	tok, err := hf.LoadTokenizer(model.Tokenizer)
	if err != nil {
		return err
	}
	out := map[string][]byte{}
	if out["tokenizer_config.json"], err = hf.TokenizerConfig(tok, model.Config); err != nil {
		return err
	}
	maps.Copy(out, beside) // where the run has a tokenizer_config.json from its base, it counts
	for name, data := range out {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	for name, r := range files {
		if err := writeFileBy(filepath.Join(dir, filepath.Base(name)), 0o644, func(w io.Writer) error {
			_, err := io.Copy(w, r)
			return err
		}); err != nil {
			return err
		}
	}
	car, err := os.Create(filepath.Join(dir, lineageFile))
	if err != nil {
		return err
	}
	return errors.Join(s.store.ExportCAR(ctx, car, roots), car.Sync(), car.Close())
}
