package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

type generateFlags struct {
	prompt      string
	chat        chatFlags
	tokens      int
	temperature float64
	topK        int
	topP, minP  float64
	repetition  float64
	frequency   float64
	presence    float64
	stop        []string
	logProbs    bool
	ignoreEOS   bool
	given       func(flag string) bool // on the command line
	reading     func(done, all int)    // is told how much of a long prompt is read
	eos         []int                  // tokens that end the text
	seed        uint64
	threads     int
	engine      string
	bf16        bool
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
goes on from the latter half of it.

What generation_config.json says (temperature, top_k, top_p, min_p, repetition_penalty,
max_new_tokens, eos_token_id; do_sample: false is temperature 0, true alone 1) stands for the flags
that are not given. Logits go through penalties, temperature, top-k, top-p and min-p in
this order, as in Hugging Face transformers.

With --chat the prompt is what a user says: the model's own chat template makes the
text of it, and what is written is the answer. Otherwise the prompt begins with what the
tokenizer puts before a text, such as a BOS.

` + bosHelp,
		Example: `  shoal generate model/ -p "Call me "
  shoal generate model/ --chat -p "Who is Ishmael?"
  shoal generate model/ --messages conversation.json --chat-vars '{"enable_thinking": false}'
  shoal generate model/ -p "Call me " -n 1000 --temperature 0.6 --seed 3
  shoal generate model/ -p "Call me " --bf16            # half the memory, where it is stored in float32
  shoal generate model/ -p "Call me " --engine worker
  shoal generate bafybei… -p "Call me "`,
		Args: exactly("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := a.model(cmd.Context(), args[0], &kf, &nf)
			if err != nil {
				return err
			}
			gf.given = cmd.Flags().Changed
			return errors.Join(a.generate(cmd.Context(), dir, gf), dir.close())
		},
	}
	kf.add(c)
	nf.add(c)
	f := c.Flags()
	f.StringVarP(&gf.prompt, "prompt", "p", "", "text to go on from")
	gf.chat.add(c)
	f.IntVarP(&gf.tokens, "tokens", "n", 300, "how many tokens to write")
	f.Float64Var(&gf.temperature, "temperature", 0.8, "0 takes the likeliest token each time")
	f.IntVar(&gf.topK, "top-k", 0, "choose among this many likeliest tokens; 0 is all")
	f.Float64Var(&gf.topP, "top-p", 0, "of those, among the fewest with this share of probability; 0 is all")
	f.Float64Var(&gf.minP, "min-p", 0, "of those, among the ones this fraction as likely as the likeliest; 0 is all")
	f.Float64Var(&gf.repetition, "repetition-penalty", 1, "above 1 makes tokens that the text has already less likely")
	f.Float64Var(&gf.frequency, "frequency-penalty", 0, "taken from a token's logit for each time that it was written")
	f.Float64Var(&gf.presence, "presence-penalty", 0, "taken from a token's logit once it was written")
	f.BoolVar(&gf.ignoreEOS, "ignore-eos", false, "go on where the model would end the text")
	f.StringArrayVar(&gf.stop, "stop", nil, "end before this text; may be given more than once")
	f.BoolVar(&gf.logProbs, "logprobs", false, "with --json: each token and its log-probability")
	f.Uint64Var(&gf.seed, "seed", 1, "equal seeds give equal text")
	f.BoolVar(&gf.bf16, "bf16", false, bf16Usage)
	f.IntVar(&gf.threads, "threads", 0, "threads that compute (default: one for each core)")
	f.StringVar(&gf.engine, "engine", inProcess, "what writes: "+inProcess+", worker (a process of its own), unix:SOCKET or exec:COMMAND (see shoal worker --help)")
	return c
}

func (a *app) generate(ctx context.Context, dir *modelDir, gf generateFlags) (err error) {
	if gf.tokens < 1 || gf.tokens > 1<<20 {
		return usagef("-n %d: want 1 to %d tokens", gf.tokens, 1<<20)
	}
	if !(gf.repetition > 0) { // GenerateOptions takes 0 for none
		return usagef("--repetition-penalty %g: want more than 0; 1 is none", gf.repetition)
	}
	if slices.Contains(gf.stop, "") {
		return usagef("--stop: want some text")
	}
	if err := gf.options().Validate(); err != nil {
		return usageError{err, "see `shoal generate --help`"}
	}
	spawn, err := spawner(ctx, gf.engine, "--threads", fmt.Sprint(threads(gf.threads)))
	if err != nil {
		return err
	}
	o, err := dir.describe()
	if err != nil {
		return err
	}
	gf.eos = o.cfg.EOS
	if b := dir.files[generationFile]; b != nil {
		g, err := hf.ParseGeneration(b)
		if err != nil {
			return err
		}
		gf.follow(g)
	}
	if gf.ignoreEOS {
		gf.eos = nil
	}
	var before, after []int32
	if gf.chat.asked() {
		gf.prompt, err = gf.chat.render(dir.files, gf.prompt) // a template writes BOS itself
	} else {
		before, after, err = around(o.tok, dir.files[tokenizerConfigFile])
	}
	if err != nil {
		return err
	}
	read, err := a.encode(ctx, o.tok, gf.prompt)
	if err != nil {
		return err
	}
	ids := slices.Concat(before, read[0], after)
	if len(ids) == 0 {
		return usageError{fmt.Errorf("the prompt %q has no token of this model", gf.prompt), `give some text with -p "Call me "`}
	}
	if err := o.knows(ids); err != nil {
		return err
	}
	positions := min(o.cfg.Context(), len(ids)+gf.tokens) // contexts may be long
	cache := llama.CacheMemory(o.cfg, positions)
	if err := fits(fmt.Sprintf("keys and values of %d tokens", positions), cache, freeMemory(), "write fewer tokens: -n 300"); err != nil {
		return err
	}
	others := cache
	if gf.engine == inWorker { // on this machine, too
		others += 4 * o.cfg.NumParams()
	}
	if err := a.load(ctx, o, dir, loading{threads: gf.threads, bf16: gf.bf16, others: others, spawn: during(ctx, spawn), positions: positions}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	var text strings.Builder
	w := &speaker{tok: o.tok, ids: ids, out: &text, said: len(ids), stop: gf.stop}
	if !a.json {
		w.out = io.MultiWriter(a.out, &text)
		fmt.Fprint(a.out, gf.prompt)
	}
	scr := a.screen()
	gf.reading = func(done, all int) {
		switch {
		case done == all:
			scr.clear()
		case done%64 == 0:
			scr.late("reading the prompt, %d of %d tokens", done, all)
		}
	}
	defer scr.clear()
	err = write(ctx, o.writes, w, gf, o.cfg)
	if errors.Is(err, errStopText) {
		err = nil
	}
	if err = errors.Join(err, w.flush()); err != nil {
		if !a.json {
			fmt.Fprintln(a.out) // what went wrong stands on a line of its own
		}
		return err
	}
	return a.show(struct {
		Prompt string      `json:"prompt"`
		Text   string      `json:"text"`
		Tokens []spokenFor `json:"tokens,omitempty"`
	}{gf.prompt, text.String(), w.logProbs}, "\n")
}

// follow takes what g advises for flags that are not given.
func (gf *generateFlags) follow(g hf.Generation) {
	if len(g.EOS) > 0 {
		gf.eos = g.EOS
	}
	switch greedy, plain := 0.0, 1.0; {
	case g.Sample != nil && !*g.Sample:
		g.Temperature = &greedy
	case g.Sample != nil && g.Temperature == nil:
		g.Temperature = &plain
	}
	set(gf, "temperature", &gf.temperature, g.Temperature)
	set(gf, "top-k", &gf.topK, g.TopK)
	set(gf, "top-p", &gf.topP, g.TopP)
	set(gf, "min-p", &gf.minP, g.MinP)
	set(gf, "repetition-penalty", &gf.repetition, g.Repetition)
	set(gf, "tokens", &gf.tokens, g.MaxNew)
}

func set[T any](gf *generateFlags, flag string, to, value *T) {
	if value != nil && !gf.given(flag) {
		*to = *value
	}
}

// options are those of the flags.
func (gf *generateFlags) options() llama.GenerateOptions {
	return llama.GenerateOptions{Temperature: gf.temperature, TopK: gf.topK, TopP: gf.topP, MinP: gf.minP,
		Repetition: gf.repetition, Frequency: gf.frequency, Presence: gf.presence, LogProbs: gf.logProbs}
}

// longPrompt is of how many tokens a prompt is for reading to be told of.
const longPrompt = 1 << 10

// write lets the model go on until gf.tokens are written. Where its context is
// full it reads the latter half again.
func write(ctx context.Context, m generator, w *speaker, gf generateFlags, cfg hf.Config) error {
	for left, part := gf.tokens, uint64(0); left > 0; part++ {
		prompt := w.ids[max(0, len(w.ids)-max(1, cfg.Context()/2)):]
		if part == 0 {
			prompt = w.ids[max(0, len(w.ids)-cfg.Context()):]
		}
		before := left
		o := gf.options()
		o.MaxTokens, o.Seed = left, gf.seed+part<<32
		for _, e := range gf.eos {
			o.Stop = append(o.Stop, int32(e))
		}
		if len(prompt) >= longPrompt && gf.reading != nil {
			o.Hidden = func(position int, _ []float32) {
				if position < len(prompt) {
					gf.reading(position+1, len(prompt))
				}
			}
		}
		var werr error
		room := cfg.Context() - len(prompt) + 1
		err := m.Generate(ctx, prompt, o, func(x llama.Token) bool {
			left--
			if gf.logProbs {
				w.logProbs = append(w.logProbs, spokenFor{x.ID, x.LogProb})
			}
			werr = w.say(x.ID)
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

	broken bool // out takes no more

	stop     []string // texts that end it
	held     string   // text that may be the beginning of one
	logProbs []spokenFor
}

// spokenFor is a token and its log-probability.
type spokenFor struct {
	ID      int32   `json:"id"`
	LogProb float64 `json:"logprob"`
}

// errStopText is what say returns where the text has come to one of stop.
var errStopText = errors.New("a stop text came")

// put writes text, but for what may be the beginning of a stop text.
func (w *speaker) put(text string) error {
	w.held += text
	end, keep := len(w.held), 0
	var stopped error
	for _, s := range w.stop {
		if i := strings.Index(w.held, s); i >= 0 && i < end {
			end, stopped = i, errStopText
		}
		for n := min(len(s)-1, len(w.held)); n > keep; n-- {
			if strings.HasSuffix(w.held, s[:n]) {
				keep = n
			}
		}
	}
	if stopped == nil {
		end -= keep
	}
	_, err := io.WriteString(w.out, w.held[:end])
	w.broken = err != nil
	if w.held = w.held[end:]; stopped != nil {
		w.held = ""
	}
	return errors.Join(err, stopped)
}

// flush writes what was held back, at the end of the text.
func (w *speaker) flush() error {
	if w.broken { // that was told
		return nil
	}
	if w.said < len(w.ids) {
		if err := w.tell(true); err != nil && !errors.Is(err, errStopText) {
			return err
		}
	}
	_, err := io.WriteString(w.out, w.held)
	w.held = ""
	return err
}

// Tokens before those unsaid that are decoded with them, and how many unsaid
// ones may wait for a character to become whole.
const (
	speakerBack = 32
	speakerHold = 16
)

func (w *speaker) say(id int32) error {
	w.ids = append(w.ids, id)
	return w.tell(len(w.ids)-w.said >= speakerHold)
}

// tell puts what the unsaid tokens add to the text; where they end within a
// character, and not all is wanted, they wait for the one that completes it.
func (w *speaker) tell(all bool) error {
	from := max(0, w.said-speakerBack)
	was, now := w.tok.Decode(w.ids[from:w.said]), w.tok.Decode(w.ids[from:])
	rest, ok := strings.CutPrefix(now, was)
	if !all && (!ok || strings.HasSuffix(now, "\uFFFD")) {
		return nil
	}
	if !ok { // what was told as U+FFFD begins a character after all: it cannot be taken back
		n := 0
		for n < len(was) && n < len(now) && was[n] == now[n] {
			n++
		}
		for n > 0 && n < len(now) && !utf8.RuneStart(now[n]) {
			n--
		}
		rest = now[n:]
	}
	w.said = len(w.ids)
	return w.put(rest)
}
