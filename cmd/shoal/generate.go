package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

const maxModel = 1 << 38 // bytes of a model directory

type generateFlags struct {
	prompt      string
	tokens      int
	temperature float64
	topK        int
	seed        uint64
	threads     int
}

func (a *app) generateCmd() *cobra.Command {
	var kf keyFlags
	var nf netFlags
	var gf generateFlags
	c := &cobra.Command{
		Use:   "generate MODEL",
		Short: "Let a model write",
		Long: `MODEL is a directory with config.json, model.safetensors and tokenizer.json, or the CID
of one, which is fetched. Equal seeds give equal text. Text beyond the model's context
goes on from the latter half of it.`,
		Example: `  shoal generate model/ -p "Call me "
  shoal generate model/ -p "Call me " -n 1000 --temperature 0.6 --seed 3
  shoal generate bafybei… -p "Call me "`,
		Args: exactly("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := a.modelFiles(cmd.Context(), args[0], &kf, &nf)
			if err != nil {
				return err
			}
			return a.generate(cmd.Context(), files, gf)
		},
	}
	kf.add(c)
	nf.add(c)
	f := c.Flags()
	f.StringVarP(&gf.prompt, "prompt", "p", "", "text to go on from")
	f.IntVarP(&gf.tokens, "tokens", "n", 300, "how many tokens to write")
	f.Float64Var(&gf.temperature, "temperature", 0.8, "0 takes the likeliest token each time")
	f.IntVar(&gf.topK, "top-k", 0, "choose among this many likeliest tokens; 0 is all")
	f.Uint64Var(&gf.seed, "seed", 1, "equal seeds give equal text")
	f.IntVar(&gf.threads, "threads", 0, "threads that compute (default: one for each core)")
	return c
}

// modelFiles reads a model directory from disk, or fetches it by CID.
func (a *app) modelFiles(ctx context.Context, name string, kf *keyFlags, nf *netFlags) (files map[string][]byte, err error) {
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		files := map[string][]byte{}
		for _, f := range []string{node.ConfigFile, node.WeightsFile, node.TokenizerFile} {
			if files[f], err = readBounded(filepath.Join(name, f), maxModel); err != nil {
				return nil, advise(fmt.Errorf("model: %w", err), "a model directory holds config.json, model.safetensors and tokenizer.json; `shoal export` writes one")
			}
		}
		if files[tokenizerConfigFile], err = optional(name, tokenizerConfigFile, maxTokenizer); err != nil {
			return nil, err
		}
		return files, nil
	}
	c, err := wire.ParseCID(name)
	if err != nil || c.Codec() != wire.CodecDagPB {
		return nil, advise(fmt.Errorf("%s is neither a directory nor the CID of one", name), "export a run's model with `shoal export RUN DIR`, or give a state's CID (bafybei…)")
	}
	s, _, err := a.visit(ctx, kf, nf)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	own, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	scr := a.screen()
	defer scr.clear()
	for {
		err := s.blocks.FetchDir(own, c, s.net.Peers(), maxModel, func(done, total int64) {
			scr.now(fmt.Sprintf("fetching %s of %s", size(done), size(total)), 5*time.Second)
		})
		if err == nil {
			return s.blocks.GetDir(ctx, c, maxModel)
		}
		if !errors.Is(err, node.ErrNotFound) || own.Err() != nil {
			return nil, err
		}
		select { // nobody was found yet who has it
		case <-time.After(time.Second):
		case <-own.Done():
			if len(s.net.Peers()) == 0 {
				return nil, noPeers("fetch " + name)
			}
			return nil, err
		}
	}
}

func (a *app) generate(ctx context.Context, files map[string][]byte, gf generateFlags) error {
	if gf.tokens < 1 || gf.tokens > 1<<20 {
		return usagef("-n %d: want 1 to %d tokens", gf.tokens, 1<<20)
	}
	o, err := openModel(files, gf.threads)
	if err != nil {
		return err
	}
	defer o.dev.Close()
	ids := o.tok.EncodePrompt(gf.prompt)
	if len(ids) == 0 {
		return usageError{fmt.Errorf("the prompt %q has no token of this model", gf.prompt), `give some text with -p "Call me "`}
	}
	var text strings.Builder
	w := &speaker{tok: o.tok, ids: ids, out: &text, said: len(ids)}
	if !a.json {
		w.out = io.MultiWriter(a.out, &text)
		fmt.Fprint(a.out, gf.prompt)
	}
	if err := write(ctx, o.m, w, gf, o.cfg); err != nil {
		return err
	}
	return a.show(map[string]string{"prompt": gf.prompt, "text": text.String()}, "\n")
}

// write lets the model go on until gf.tokens are written. Where its context is
// full it reads the latter half again.
func write(ctx context.Context, m *llama.Model, w *speaker, gf generateFlags, cfg hf.Config) error {
	for left, part := gf.tokens, uint64(0); left > 0; part++ {
		prompt := w.ids[max(0, len(w.ids)-max(1, cfg.MaxPositionEmbeddings/2)):]
		if part == 0 {
			prompt = w.ids[max(0, len(w.ids)-cfg.MaxPositionEmbeddings):]
		}
		before := left
		o := llama.GenerateOptions{MaxTokens: left, Temperature: gf.temperature, TopK: gf.topK, Seed: gf.seed + part<<32}
		for _, e := range cfg.EOS {
			o.Stop = append(o.Stop, int32(e))
		}
		var werr error
		room := cfg.MaxPositionEmbeddings - len(prompt) + 1
		err := m.Generate(ctx, prompt, o, func(id int32) bool {
			left--
			werr = w.say(id)
			return werr == nil
		})
		if err = errors.Join(err, werr); err != nil {
			return err
		}
		if before-left < min(before, room) {
			return nil // it came to its end
		}
	}
	return nil
}

// A speaker writes tokens as text, as soon as they are whole characters.
type speaker struct {
	tok  *hf.Tokenizer
	ids  []int32
	said int // how many of ids are written
	out  io.Writer
}

// Tokens before those unsaid that are decoded with them, and how many unsaid
// ones may wait for a character to become whole.
const (
	speakerBack = 32
	speakerHold = 16
)

func (w *speaker) say(id int32) error {
	w.ids = append(w.ids, id)
	from := max(0, w.said-speakerBack)
	was, now := w.tok.Decode(w.ids[from:w.said]), w.tok.Decode(w.ids[from:])
	rest, ok := strings.CutPrefix(now, was)
	if (!ok || strings.HasSuffix(now, "\uFFFD")) && len(w.ids)-w.said < speakerHold {
		return nil // part of a character: the next token completes it
	}
	w.said = len(w.ids)
	_, err := io.WriteString(w.out, rest)
	return err
}
