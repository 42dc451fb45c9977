package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

func (a *app) manifestInitCmd() *cobra.Command {
	var name, from string
	c := &cobra.Command{
		Use:   "init",
		Short: "Print a commented manifest to begin with",
		Long: `Without --from, the manifest of a small Llama that begins with random weights.

With --from, that of a run that goes on from a model: DIR is a Hugging Face directory of a
Llama, a Qwen 2 or a Qwen 3 with config.json, tokenizer.json and model.safetensors or its
shards, or what shoal export wrote. Weights and tokenizer are put as blocks into the data
directory, as they are, from where publish serves them; the manifest names them (model.base
and tokenizer), and model.config says what config.json said. The run trains in float32,
whatever the weights are in. How the model is talked to goes with it, from there to what
shoal export writes: tokenizer_config.json, generation_config.json, chat_template.jinja and
special_tokens_map.json.

model.config has the names of config.json. What the comments do not show, all of it optional:

  architectures       [LlamaForCausalLM], [Qwen2ForCausalLM] or [Qwen3ForCausalLM]
  attention_bias      true: biases of attention's projections (Llama, Qwen 3)
  mlp_bias            true: biases of the MLP's projections (Llama)
  rope_scaling        rope_type (linear, dynamic, yarn, longrope or llama3), factor and what
                      that type has: low_freq_factor, high_freq_factor, beta_fast,
                      original_max_position_embeddings, attention_factor, beta_slow, mscale,
                      mscale_all_dim, truncate, short_factor, long_factor
  sliding_window      tokens that a token sees in the layers that layer_types says (Qwen)
  layer_types         full_attention or sliding_attention, one for each layer`,
		Example: `  shoal manifest init --name moby > run.yaml
  shoal manifest init --from Qwen2.5-0.5B/ --name whales > run.yaml
  shoal data prepare corpus.txt --into run.yaml    # with the model's own tokenizer`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !manifest.IsName(name) {
				return usagef("--name %q: want 1 to %d of a-z, 0-9 and -, the first not -", name, manifest.MaxName)
			}
			text := manifest.Template(name, "", "", 0)
			if cmd.Flags().Changed("from") {
				if from == "" {
					return usagef("--from: want the directory of a model")
				}
				var err error
				if text, err = a.continued(cmd.Context(), name, from); err != nil {
					return err
				}
			}
			_, err := a.out.Write(text)
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "my-run", "name of the run: a-z, 0-9 and -")
	c.Flags().StringVar(&from, "from", "", "directory of a model that the run goes on from")
	return c
}

// continued stores the model in path and returns the manifest that goes on from it.
func (a *app) continued(ctx context.Context, name, path string) (text []byte, err error) {
	dir, err := localModel(path)
	if err != nil {
		return nil, err
	}
	cfg, err := hf.ParseConfig(dir.files[node.ConfigFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	tok, err := hf.LoadTokenizer(dir.files[node.TokenizerFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if n := tok.VocabSize(); n > cfg.VocabSize {
		return nil, advise(fmt.Errorf("%s: %s has %d tokens, %s a vocab_size of %d", path, node.TokenizerFile, n, node.ConfigFile, cfg.VocabSize), "the tokenizer is another model's: use the one that this model was trained with")
	}
	defer func() { err = errors.Join(err, dir.close()) }()
	if err := a.checkWeights(ctx, dir, cfg); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, err := a.offline()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	base, err := s.putBase(ctx, dir, cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t, err := s.blocks.PutFile(ctx, tok.JSON())
	if err != nil {
		return nil, fmt.Errorf("store the tokenizer: %w", err)
	}
	if err := s.store.Pin("prepared/"+base.String(), base, t); err != nil {
		return nil, err
	}
	a.say("%s, %s parameters, from %s, is in %s\nnext: shoal data prepare TEXT --into the manifest; its licence must be one that the model's allows",
		cfg.Architecture(), count(float64(cfg.NumParams())), path, a.dir)
	return manifest.Continue(name, cfg, base, t)
}

// checkWeights reads all weights: that they are there, of the right shape, and finite.
func (a *app) checkWeights(ctx context.Context, dir *modelDir, cfg hf.Config) error {
	w, err := dir.weights(cfg)
	if err != nil {
		return err
	}
	scr := a.screen()
	defer scr.clear()
	return unreadable(w.Check(func(done int64) error {
		scr.late("checking the weights: %s of %s", size(done), size(w.Bytes()))
		return ctx.Err()
	}))
}

// putBase stores what a base needs of a model's directory.
func (s *session) putBase(ctx context.Context, dir *modelDir, cfg hf.Config) (base wire.CID, err error) {
	files, total := map[string]io.Reader{}, int64(0)
	for name, b := range dir.files {
		if b != nil {
			files[name] = bytes.NewReader(b)
			total += int64(len(b))
		}
	}
	names := []string{node.WeightsFile}
	if index := dir.files[shardIndexFile]; index != nil {
		x, err := hf.ParseShardIndex(index)
		if err != nil {
			return "", err
		}
		names = x.Files
	}
	scr, done := s.app.screen(), int64(0)
	defer scr.clear()
	weights := int64(0)
	for _, name := range names {
		r, err := dir.open(name)
		if err != nil {
			return "", err
		}
		weights += r.Size()
		files[name] = reading{r, func(n int) error {
			done += int64(n)
			scr.late("storing the weights: %s of %s", size(done), size(weights))
			return ctx.Err()
		}}
	}
	if total += weights; total > node.BaseLimit(cfg.Tensors()) {
		return "", fmt.Errorf("its files have %s, those of a model of %d parameters at most %s", size(total), cfg.NumParams(), size(node.BaseLimit(cfg.Tensors())))
	}
	if err := diskRoom("the weights, as blocks,", s.app.dir, total); err != nil {
		return "", err
	}
	return s.blocks.PutDir(ctx, files)
}

// reading tells how many bytes of a reader were read; told's error ends it.
type reading struct {
	io.Reader
	told func(n int) error
}

func (r reading) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if told := r.told(n); told != nil {
		return 0, told
	}
	return n, err
}

// beside are the companions that a run's model has from the model that it continues: what
// they say of tokens is true where the tokenizer is the same.
func (a *app) beside(ctx context.Context, b blocks, m *manifest.Manifest, tokenizer []byte) (map[string][]byte, error) {
	base := m.Model.Base
	if !base.Defined() {
		return nil, nil
	}
	was, err := b.filesOf(ctx, base, maxTokenizer, node.TokenizerFile)
	if err != nil {
		return nil, fmt.Errorf("model.base %s: %w", base, err)
	}
	if !bytes.Equal(was[node.TokenizerFile], tokenizer) {
		return nil, nil
	}
	all := map[string][]byte{}
	for _, name := range companions {
		files, err := b.filesOf(ctx, base, maxCompanion, name)
		if errors.Is(err, node.ErrBadContent) { // a stranger's: the model is none the worse without it
			a.say("note: left out of the model: %v", err)
			continue
		} else if err != nil {
			return nil, fmt.Errorf("model.base %s: %w", base, err)
		}
		maps.Copy(all, files)
	}
	return all, nil
}

// filesOf are those files of a directory in the store that have one of the names, each of at
// most limit bytes.
func (b blocks) filesOf(ctx context.Context, dir wire.CID, limit int64, names ...string) (map[string][]byte, error) {
	entries, err := b.store.List(ctx, dir)
	if err != nil {
		return nil, sorted(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if !slices.Contains(names, e.Name) {
			continue
		}
		if files[e.Name], err = b.GetFile(ctx, e.CID, limit); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	return files, nil
}

// heldTokenizer is the tokenizer of the model that a manifest continues, nil where it
// continues none. asked is --tokenizer: another one than the model's is refused, since
// its tokens would mean nothing to the model.
func (a *app) heldTokenizer(ctx context.Context, e *editable, asked string) (tok *hf.Tokenizer, err error) {
	top, err := e.top()
	if err != nil {
		return nil, err
	}
	_, model := field(top, "model")
	_, base := field(model, "base")
	_, named := field(top, "tokenizer")
	if base == nil || named == nil {
		return nil, nil
	}
	c, err := wire.ParseCID(named.Value)
	if err != nil {
		return nil, nil // check says what is wrong with it
	}
	s, err := a.offline()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	b, err := s.blocks.GetFile(ctx, c, maxTokenizer)
	if errors.Is(err, node.ErrNotFound) {
		return nil, advise(fmt.Errorf("%s continues a model whose tokenizer %s is not in %s", e.name, c, a.dir), "put it there: shoal manifest init --from DIR")
	} else if err != nil {
		return nil, err
	}
	if tok, err = hf.LoadTokenizer(b); err != nil || asked == "" {
		return tok, err
	}
	if asked != charTokens {
		other, err := tokenizerOf(asked)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(other.JSON(), b) {
			return tok, nil
		}
	}
	return nil, advise(fmt.Errorf("--tokenizer %s: %s continues a model with another one", asked, e.name), "leave --tokenizer out, or take model.base out of the manifest")
}
