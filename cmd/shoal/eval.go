package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/llama"
)

type evalFlags struct {
	model, text, split string
	skip, documents    int
	threads            int
	bf16               bool
}

// evaluation is what eval prints.
type evaluation struct {
	Documents int     `json:"documents"` // of two tokens or more
	Predicted int     `json:"predicted"` // tokens
	MeanNLL   float64 `json:"mean_nll"`  // nats a predicted token
	PPL       power   `json:"ppl"`       // e to the mean_nll
	Seconds   float64 `json:"seconds"`
}

// smallModel is below how many parameters a model is kept as it is, too, from which documents of a few
// hundred tokens are read faster.
const smallModel = 1 << 26

const bf16Usage = "round weights to bfloat16: half the memory, and written faster; those that are stored so are read so anyway, and nothing changes"

// A power may be beyond all numbers, which is null in JSON.
type power float64

func (p power) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(p), 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(p))
}

func (a *app) evalCmd() *cobra.Command {
	var kf keyFlags
	var nf netFlags
	var ef evalFlags
	c := &cobra.Command{
		Use:   "eval --model MODEL --text FILE",
		Short: "Measure how well a model predicts a text",
		Long: `Each document is what the tokenizer puts before a text, such as a BOS, and the text, cut
to the model's maximum length. Every token but the first of a document is predicted from
those before it; mean_nll is the mean over all of them in nats, ppl its exponential.

Without --split the file is one document, as it is. With it the file is cut at the
separator, documents lose the white space around them, and empty ones do not count.

` + bosHelp + ` Where that is nothing, and is not said to be, eval takes bos_token.`,
		Example: `  shoal eval --model model/ --text corpus.txt
  shoal eval --model model/ --text stories.txt --split '<|endoftext|>' --json
  shoal eval --model model/ --text stories.txt --split '<|endoftext|>' --skip 1 --documents 200`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ef.model == "" || ef.text == "" {
				return usageError{errors.New("shoal eval: --model and --text are needed"), "shoal eval --model DIR --text FILE"}
			}
			dir, err := a.model(cmd.Context(), ef.model, &kf, &nf)
			if err != nil {
				return err
			}
			return errors.Join(a.eval(cmd.Context(), dir, ef), dir.close())
		},
	}
	kf.add(c)
	nf.add(c)
	f := c.Flags()
	f.StringVar(&ef.model, "model", "", "directory of a model, or the CID of one")
	f.StringVar(&ef.text, "text", "", "the text, UTF-8")
	f.StringVar(&ef.split, "split", "", splitUsage)
	f.IntVar(&ef.skip, "skip", 0, "leave out this many documents at the beginning, e.g. a fragment")
	f.IntVar(&ef.documents, "documents", 0, "end after this many documents; 0 is all")
	f.BoolVar(&ef.bf16, "bf16", false, bf16Usage)
	f.IntVar(&ef.threads, "threads", 0, "threads that compute (default: one for each core)")
	return c
}

func (a *app) eval(ctx context.Context, dir *modelDir, ef evalFlags) error {
	if ef.skip < 0 || ef.documents < 0 {
		return usagef("--skip %d, --documents %d: want numbers from 0 on", ef.skip, ef.documents)
	}
	text, err := readText(ctx, ef.text)
	if err != nil {
		return err
	}
	o, err := dir.describe()
	if err != nil {
		return err
	}
	before, err := beginning(o.tok, dir.files[tokenizerConfigFile])
	if err != nil {
		return err
	}
	docs := documents(text, unescape(ef.split))
	if n := len(docs); ef.skip >= n && n > 0 {
		return usagef("--skip %d: %s holds %d documents", ef.skip, ef.text, n)
	}
	docs = docs[min(ef.skip, len(docs)):]
	if ef.documents > 0 {
		docs = docs[:min(ef.documents, len(docs))]
	}
	start := time.Now()
	all, err := a.encode(ctx, o.tok, docs...)
	if err != nil {
		return err
	}
	longest, total := 0, 0
	for i, ids := range all {
		ids = slices.Concat(before, ids[:min(len(ids), o.cfg.MaxPositionEmbeddings)])
		ids = ids[:min(len(ids), o.cfg.MaxPositionEmbeddings)]
		if err := o.knows(ids); err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
		all[i], longest, total = ids, max(longest, len(ids)), total+max(0, len(ids)-1)
	}
	if longest < 2 {
		return advise(fmt.Errorf("%s holds no document of two tokens", ef.text), "a document needs a token to predict another from")
	}
	l := loading{threads: ef.threads, bf16: ef.bf16, flat: !ef.bf16 && o.cfg.NumParams() < smallModel}
	if l.others, err = llama.ScorerMemory(o.cfg, longest, l.flat); err != nil {
		return err
	}
	if err := fits(fmt.Sprintf("documents of up to %d tokens", longest), l.others, freeMemory(), "cut the text into shorter documents with --split, or use a smaller model"); err != nil {
		return err
	}
	if err := a.load(ctx, o, dir, l); err != nil {
		return err
	}
	defer o.close()
	out, err := a.score(ctx, o, all, longest, total)
	if err != nil {
		return err
	}
	out.Seconds = time.Since(start).Seconds()
	return a.show(out, fmt.Sprintf("predicted  %d\nmean_nll   %.6f\nppl        %.6f\n", out.Predicted, out.MeanNLL, out.PPL))
}

// score is the evaluation of documents of up to longest tokens, total predictions in all.
func (a *app) score(ctx context.Context, o *opened, docs [][]int32, longest, total int) (out evaluation, err error) {
	s, err := o.m.NewScorer(longest)
	if err != nil {
		return out, err
	}
	scr, start, sum := a.screen(), time.Now(), 0.0
	defer scr.clear()
	for i, ids := range docs {
		if len(ids) < 2 {
			continue
		}
		nll, err := s.Score(ctx, ids, func(done int) {
			done += out.Predicted
			scr.late("document %d of %d, %s of %s tokens, %s tok/s", i+1, len(docs), count(float64(done)), count(float64(total)),
				count(float64(done)/time.Since(start).Seconds()))
		})
		if err != nil {
			return out, fmt.Errorf("document %d of %d: %w", i+1, len(docs), err)
		}
		if math.IsNaN(nll) || math.IsInf(nll, 0) {
			return out, advise(fmt.Errorf("document %d of %d: what the model computes is not finite", i+1, len(docs)), "its weights are damaged, or another model's: compare them with where they are from")
		}
		out.Documents++
		out.Predicted += len(ids) - 1
		sum += nll * float64(len(ids)-1)
	}
	out.MeanNLL = sum / float64(out.Predicted)
	out.PPL = power(math.Exp(out.MeanNLL))
	return out, nil
}

const splitUsage = `what stands between documents, e.g. '<|endoftext|>'; \n, \r, \t and \\ are understood`

// unescape reads what a shell makes hard to type.
func unescape(s string) string {
	return strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r", `\t`, "\t").Replace(s)
}

// documents cuts text at each sep. Without a sep it is one document, untouched.
func documents(text, sep string) []string {
	if sep == "" {
		return []string{text}
	}
	var out []string
	for d := range strings.SplitSeq(text, sep) {
		if d = strings.TrimSpace(d); d != "" {
			out = append(out, d)
		}
	}
	return out
}
