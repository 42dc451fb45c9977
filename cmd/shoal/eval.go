package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

type evalFlags struct {
	model, text, split string
	skip, documents    int
	threads            int
}

const longDocument = 1 << 14 // tokens, from which on memory may be short

// evaluation is what eval prints.
type evaluation struct {
	Documents int     `json:"documents"` // of two tokens or more
	Predicted int     `json:"predicted"` // tokens
	MeanNLL   float64 `json:"mean_nll"`  // nats a predicted token
	PPL       float64 `json:"ppl"`       // e to the mean_nll
	Seconds   float64 `json:"seconds"`
}

func (a *app) evalCmd() *cobra.Command {
	var kf keyFlags
	var nf netFlags
	var ef evalFlags
	c := &cobra.Command{
		Use:   "eval --model MODEL --text FILE",
		Short: "Measure how well a model predicts a text",
		Long: `Each document is the tokenizer's BOS, where it has one, and the text, cut to the model's
maximum length. Every token but the first of a document is predicted from those before
it; mean_nll is the mean over all of them in nats, ppl its exponential.

Without --split the file is one document, as it is. With it the file is cut at the
separator, documents lose the white space around them, and empty ones do not count.`,
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
			return a.eval(cmd.Context(), dir, ef)
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
	f.IntVar(&ef.threads, "threads", 0, "threads that compute (default: one for each core)")
	return c
}

func (a *app) eval(ctx context.Context, dir *modelDir, ef evalFlags) error {
	if ef.skip < 0 || ef.documents < 0 {
		return usagef("--skip %d, --documents %d: want numbers from 0 on", ef.skip, ef.documents)
	}
	text, err := readBounded(ef.text, maxText)
	if err != nil {
		return fmt.Errorf("text: %w", err)
	}
	if !utf8.Valid(text) {
		return advise(fmt.Errorf("%s is not UTF-8 text", ef.text), "convert it, e.g. with iconv -t UTF-8")
	}
	o, err := dir.open(ef.threads)
	if err != nil {
		return err
	}
	defer o.close()
	bos, err := bosTokens(o.tok, dir.files[tokenizerConfigFile])
	if err != nil {
		return err
	}
	docs := documents(string(text), unescape(ef.split))
	docs = docs[min(ef.skip, len(docs)):]
	if ef.documents > 0 {
		docs = docs[:min(ef.documents, len(docs))]
	}
	start := time.Now()
	var out evaluation
	var sum float64
	scr := a.screen()
	defer scr.clear()
	for i, d := range docs {
		ids := append(append([]int32{}, bos...), o.tok.Encode(d)...)
		ids = ids[:min(len(ids), o.cfg.MaxPositionEmbeddings)]
		if len(ids) < 2 {
			continue
		}
		if err := o.knows(ids); err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
		if len(ids) > longDocument { // contexts may be long
			what := fmt.Sprintf("document %d of %d tokens", i+1, len(ids))
			if err := fits(what, llama.EvalMemory(o.cfg, len(ids)), freeMemory(), "cut the text into documents with --split"); err != nil {
				return err
			}
		}
		nll, err := o.m.Loss(ids)
		if err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
		out.Documents++
		out.Predicted += len(ids) - 1
		sum += nll * float64(len(ids)-1)
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Since(start) > time.Second {
			scr.now(fmt.Sprintf("document %d of %d", i+1, len(docs)), 5*time.Second)
		}
	}
	if out.Predicted == 0 {
		return advise(fmt.Errorf("%s holds no document of two tokens", ef.text), "a document needs a token to predict another from")
	}
	out.MeanNLL = sum / float64(out.Predicted)
	out.PPL = math.Exp(out.MeanNLL)
	out.Seconds = time.Since(start).Seconds()
	return a.show(out, fmt.Sprintf("predicted  %d\nmean_nll   %.6f\nppl        %.6f\n", out.Predicted, out.MeanNLL, out.PPL))
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

// bosTokens are those that begin a document: what the tokenizer's
// post-processor puts there, or else the bos_token of tokenizer_config.json,
// which may be missing (nil).
func bosTokens(tok *hf.Tokenizer, config []byte) ([]int32, error) {
	if p := tok.Prefix(); len(p) > 0 || config == nil {
		return p, nil
	}
	var j struct {
		BOS json.RawMessage `json:"bos_token"`
		Add *bool           `json:"add_bos_token"`
	}
	if err := json.Unmarshal(config, &j); err != nil {
		return nil, fmt.Errorf("%s: %w", tokenizerConfigFile, err)
	}
	name := tokenName(j.BOS)
	if name == "" || j.Add != nil && !*j.Add {
		return nil, nil
	}
	id, ok := tok.ID(name)
	if !ok {
		return nil, fmt.Errorf("%s: bos_token %.40q is not in the vocabulary", tokenizerConfigFile, name)
	}
	return []int32{id}, nil
}
