package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/cpu"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/toploc"
	"github.com/shoalnet/shoal/toploc/calibrate"
)

// maxPolicyFile bounds what is read of a policy, in bytes.
const maxPolicyFile = 1 << 26

// readPolicy reads the policy named, nil for none, and takes the parameters from it
// that no flag gives. Flags that say otherwise are wrong usage.
func (tf *toplocFlags) readPolicy(cmd *cobra.Command, name string) (*toploc.Policy, error) {
	if name == "" {
		return nil, nil
	}
	b, err := readBounded(name, maxPolicyFile)
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	p, err := toploc.ParsePolicy(b)
	if err != nil {
		return nil, fmt.Errorf("--policy: %s: %w", name, err)
	}
	for _, f := range []struct {
		name      string
		flag, own int
	}{{"hidden", tf.p.Hidden, p.Params.Hidden}, {"topk", tf.p.TopK, p.Params.TopK}, {"batch", tf.p.Batch, p.Params.Batch}} {
		if cmd.Flags().Changed(f.name) && f.flag != f.own {
			return nil, usagef("--%s %d: the policy is for %d", f.name, f.flag, f.own)
		}
	}
	tf.p = p.Params
	return p, nil
}

func (a *app) toplocProjectCmd() *cobra.Command {
	var tf toplocFlags
	var policy, job string
	c := &cobra.Command{
		Use:   "project FILE",
		Short: "Print version 2 records, which are bound to a job",
		Long: `Version 2 records stand beside the proofs of version 1 and commit to all activations of
each token, by projections that the job's identifier draws: what a forger cannot reuse.`,
		Example: `  shoal toploc project --policy policy.json --job 17 rows.bf16 > v2.txt`,
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if policy == "" || !cmd.Flags().Changed("job") {
				return usagef("--policy and --job are needed")
			}
			p, err := tf.readPolicy(cmd, policy)
			if err != nil {
				return err
			}
			if p.Projection == nil {
				return fmt.Errorf("--policy: %s has no projection", policy)
			}
			if err := tf.check(); err != nil {
				return err
			}
			r, done, err := a.rows(cmd.Context(), args[0], &tf)
			if err != nil {
				return err
			}
			defer done()
			pr, err := toploc.NewProjector(*p.Projection, tf.p, tf.prompt, []byte(job))
			if err != nil {
				return err
			}
			return r.each(cmd, func(row []uint16) error {
				whole := row == nil && pr.Tokens() > 0
				if row != nil {
					var err error
					if whole, err = pr.Push(row); err != nil {
						return fmt.Errorf("%s: %w", args[0], err)
					}
				}
				if !whole {
					return nil
				}
				_, err := fmt.Fprintln(a.out, base64.StdEncoding.EncodeToString(pr.Record()))
				return err
			})
		},
	}
	tf.add(c)
	c.Flags().StringVar(&policy, "policy", "", "the model's policy (required); it has --hidden, --topk and --batch")
	c.Flags().StringVar(&job, "job", "", "identifier of the job (required)")
	return c
}

// maxSequences bounds a calibration; its policy says which one in how many fails.
const maxSequences = 1 << 16

type calibrateFlags struct {
	text, out         string
	topk, batch       int
	sequences, prompt int
	tokens, threads   int
	temperature       float64
}

func (a *app) toplocCalibrateCmd() *cobra.Command {
	var cf calibrateFlags
	var kf keyFlags
	var nf netFlags
	c := &cobra.Command{
		Use:   "calibrate MODEL",
		Short: "Measure honest drift and forgeries on a model, and write its policy",
		Long: `MODEL is a directory with config.json, model.safetensors and tokenizer.json, or the CID of
one. Lets the model go on from pieces of a text, computes the sequences in several honest ways
(threads, batch shapes, kernels, activations in bfloat16) and in dishonest ones, and writes
limits that tell them apart: a policy in JSON, with the false rejects that were measured
and their bound. The tables go to standard output.`,
		Example: `  shoal toploc calibrate model/ --text corpus.txt --out policy.json
  shoal toploc calibrate model/ --text corpus.txt --sequences 256 --tokens 256 --out policy.json`,
		Args: exactly("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cf.text == "" || cf.out == "" {
				return usagef("--text and --out are needed")
			}
			if cf.prompt < 1 || cf.sequences < 4 || cf.tokens < 1 {
				return usagef("--sequences %d, --prompt-tokens %d, --tokens %d: want at least 4, 1 and 1", cf.sequences, cf.prompt, cf.tokens)
			}
			if cf.sequences > maxSequences || cf.prompt > hf.MaxPositions || cf.tokens > hf.MaxPositions {
				return usagef("--sequences %d, --prompt-tokens %d, --tokens %d: want at most %d, %d and %d", cf.sequences, cf.prompt, cf.tokens, maxSequences, hf.MaxPositions, hf.MaxPositions)
			}
			if !(cf.temperature > 0 && cf.temperature <= 1e6) {
				return usagef("--temperature %g: want above 0, at most 1e6", cf.temperature)
			}
			dir, err := a.model(cmd.Context(), args[0], &kf, &nf)
			if err != nil {
				return err
			}
			return errors.Join(a.toplocCalibrate(cmd.Context(), dir, cf), dir.close())
		},
	}
	kf.add(c)
	nf.add(c)
	f := c.Flags()
	f.StringVar(&cf.text, "text", "", "text to cut prompts from (required)")
	f.StringVar(&cf.out, "out", "", "file to write the policy to (required)")
	f.IntVar(&cf.topk, "topk", 0, "activations in a proof (default: the hidden size, at most 128)")
	f.IntVar(&cf.batch, "batch", 32, "generated tokens in a chunk")
	f.IntVar(&cf.sequences, "sequences", 64, "sequences to measure")
	f.IntVar(&cf.prompt, "prompt-tokens", 48, "tokens of a prompt")
	f.IntVar(&cf.tokens, "tokens", 128, "tokens drawn after it, a multiple of --batch")
	f.Float64Var(&cf.temperature, "temperature", 1, "of the draws")
	f.IntVar(&cf.threads, "threads", 0, "threads that compute (default: one for each core)")
	return c
}

func (a *app) toplocCalibrate(ctx context.Context, dir *modelDir, cf calibrateFlags) error {
	c, err := calibration(dir, cf)
	if err != nil {
		return err
	}
	var devices []*cpu.Device
	defer func() {
		for _, d := range devices {
			d.Close()
		}
	}()
	for _, o := range []cpu.Options{{Threads: threads(cf.threads)}, {Threads: 1}, {Threads: threads(cf.threads), ISA: "portable"}} {
		d, err := cpu.New(o)
		if err != nil {
			return err
		}
		devices = append(devices, d)
	}
	c.Usual(calibrate.Devices{Best: devices[0], Single: devices[1], Portable: devices[2]}, cf.prompt+cf.tokens)
	scr := a.screen()
	c.Progress = func(what string) { scr.now(what, 5*time.Second) }
	r, err := calibrate.Run(ctx, *c)
	scr.clear()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(cf.out, append(b, '\n'), 0o644); err != nil {
		return err
	}
	a.say("wrote %s", cf.out)
	return a.show(r, r.Markdown())
}

// calibration loads the model and cuts the text into prompts.
func calibration(dir *modelDir, cf calibrateFlags) (*calibrate.Config, error) {
	cfg, err := hf.ParseConfig(dir.files[node.ConfigFile])
	if err != nil {
		return nil, err
	}
	tok, err := hf.LoadTokenizer(dir.files[node.TokenizerFile])
	if err != nil {
		return nil, err
	}
	params, err := dir.params(cfg)
	if err != nil {
		return nil, err
	}
	text, err := readBounded(cf.text, 1<<28)
	if err != nil {
		return nil, fmt.Errorf("--text: %w", err)
	}
	ids := tok.Encode(string(text))
	if len(ids) < 2*cf.prompt {
		return nil, fmt.Errorf("--text: %s has %d tokens, too few for prompts of %d", cf.text, len(ids), cf.prompt)
	}
	c := &calibrate.Config{
		Model:  calibrate.Net{Config: cfg, Weights: params},
		Params: toploc.Params{Hidden: cfg.HiddenSize, TopK: cf.topk, Batch: cf.batch},
		Tokens: cf.tokens, Temperature: cf.temperature,
	}
	if cf.topk == 0 {
		c.Params.TopK = min(128, cfg.HiddenSize)
	}
	rng := rand.New(rand.NewPCG(1, uint64(len(ids))))
	for range cf.sequences {
		at := rng.IntN(len(ids) - cf.prompt + 1)
		c.Prompts = append(c.Prompts, ids[at:at+cf.prompt])
	}
	return c, nil
}
