package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

const (
	maxText      = 1 << 33 // bytes of a text: it is tokenized in memory
	maxTokenizer = 64 << 20
	charTokens   = "char" // the tokenizer whose tokens are the text's characters
)

func (a *app) dataCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "data",
		Short: "Turn text into token shards",
		Example: `  shoal data prepare corpus.txt --tokenizer char --into run.yaml
  shoal data import data.car`,
	}, a.dataPrepareCmd(), a.dataImportCmd())
}

type prepareFlags struct {
	tokenizer, into, out string
	split, eos           string
	val                  float64
	held                 *hf.Tokenizer // of the model that the manifest continues; nil: tokenizer says which
}

// prepared is what data prepare prints.
type prepared struct {
	Tokenizer wire.CID `json:"tokenizer"`
	Data      wire.CID `json:"data"`
	Vocab     int      `json:"vocab_size"`
	Train     uint64   `json:"train_tokens"`
	Val       uint64   `json:"val_tokens"`
	Shards    int      `json:"shards"`
	Documents int      `json:"documents,omitempty"` // with --split
	Separator *int32   `json:"separator,omitempty"` // likewise: the token that ends each
}

func (a *app) dataPrepareCmd() *cobra.Command {
	var pf prepareFlags
	c := &cobra.Command{
		Use:   "prepare TEXT",
		Short: "Tokenize a text into blocks and name them for a manifest",
		Long: `Puts the tokenizer, token shards and their index as blocks into the data directory,
from where publish serves them. The last tenth of the text is for validation. The same
text and tokenizer give the same CIDs everywhere.

With --split the text is documents with this separator between them. Each one is tokenized by
itself, without the white space around it, behind the tokens that the tokenizer puts before a
text, such as a BOS, and ends with one token, which inner.separator of the manifest names: so
no document is trained to see another one that shares its sequence, or to predict how it begins.
Without --split the text is one stream.`,
		Example: `  shoal data prepare corpus.txt --tokenizer char --into run.yaml
  shoal data prepare corpus.txt --tokenizer tokenizer.json   # prints the lines to paste
  shoal data prepare stories.txt --split '<|endoftext|>' --into run.yaml
  shoal data prepare stories.txt --split '\n\n' --tokenizer tokenizer.json --eos '</s>' --into run.yaml
  shoal data prepare corpus.txt --out data.car               # to take to another machine`,
		Args: exactly("TEXT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.prepareData(cmd.Context(), args[0], pf) },
	}
	f := c.Flags()
	f.StringVar(&pf.tokenizer, "tokenizer", "", "char (each character of the text is a token), or a tokenizer.json, or the directory that holds it (default: that of the model that the manifest continues, else char)")
	f.StringVar(&pf.into, "into", "", "manifest to write the CIDs into")
	f.StringVar(&pf.split, "split", "", splitUsage)
	f.StringVar(&pf.eos, "eos", "", "with --split: the token that ends a document (default: the separator, if it is a token; with char it always is)")
	f.StringVar(&pf.out, "out", "", "also write all blocks to this CAR file")
	f.Float64Var(&pf.val, "val", 0.1, "share of the text, its end, that is for validation")
	return c
}

func (a *app) prepareData(ctx context.Context, name string, pf prepareFlags) (err error) {
	text, err := readText(ctx, name)
	if err != nil {
		return err
	}
	if !(pf.val >= 0 && pf.val <= 0.9) {
		return usagef("--val %g: want 0 to 0.9", pf.val)
	}
	var target *editable
	if pf.into != "" { // before the work: a manifest that cannot be edited ends it here
		if target, err = openEditable(pf.into); err != nil {
			return err
		}
		if pf.split == "" {
			if err := target.unpacked(); err != nil {
				return err
			}
		}
		if pf.held, err = a.heldTokenizer(ctx, target, pf.tokenizer); err != nil {
			return err
		}
	}
	if pf.tokenizer == "" {
		pf.tokenizer = charTokens
	}
	p, err := pf.corpus(text)
	if err != nil {
		return err
	}
	s, err := a.offline()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	out, roots, err := s.prepare(ctx, p, pf.val)
	if err != nil {
		return err
	}
	if target != nil {
		if err := target.fill(out); err != nil {
			return err
		}
	}
	if pf.out != "" {
		export := func(w io.Writer) error { return s.store.ExportCAR(ctx, w, roots) }
		if err := writeOut(pf.out, export); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
	}
	text2 := fmt.Sprintf("tokenizer: %s\ndata: %s\n", out.Tokenizer, out.Data)
	if target != nil {
		text2 = fmt.Sprintf("%s now names\n  tokenizer  %s\n  data       %s\n", pf.into, out.Tokenizer, out.Data)
	}
	if p.separator != nil {
		if target != nil {
			text2 = fmt.Sprintf("%s now names\n  tokenizer  %s\n  data       %s\n  separator  %d, %q\n", pf.into, out.Tokenizer, out.Data, *p.separator, p.eos)
		}
		a.say("%d documents, each ended by token %d, %q", len(p.documents), *p.separator, p.eos)
	}
	a.say("%s tokens to train on, %s to validate, a vocabulary of %d, %d shards in %s", count(float64(out.Train)), count(float64(out.Val)), out.Vocab, out.Shards, a.dir)
	if target == nil && !a.json {
		more := ""
		if p.separator != nil {
			more = fmt.Sprintf(", and separator: %d into its inner", *p.separator)
		}
		a.say("put these lines into the manifest, and vocab_size: %d into its model.config%s:", out.Vocab, more)
	}
	return a.show(out, text2)
}

// writeOut writes a file whole or not at all, or into a pipe or device that is there.
func writeOut(name string, write func(io.Writer) error) error {
	fi, err := os.Stat(name)
	if err != nil || fi.Mode().IsRegular() {
		return writeFileBy(name, 0o644, write)
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// A corpus is a text to train on, with its tokenizer.
type corpus struct {
	tok       *hf.Tokenizer
	documents []string
	separator *int32 // the token that ends each; nil: they are one text
	eos       string // its name
}

func (pf *prepareFlags) corpus(text string) (c *corpus, err error) {
	if pf.split == "" {
		if pf.eos != "" {
			return nil, usagef("--eos %q without --split: a text that is not split has no documents", pf.eos)
		}
		c = &corpus{documents: []string{text}}
		c.tok, err = pf.load(text)
		return c, err
	}
	sep := unescape(pf.split)
	c = &corpus{documents: documents(text, sep), eos: unescape(pf.eos)}
	if c.eos == "" {
		c.eos = sep
	}
	if len(c.documents) == 0 {
		return nil, errors.New("the text holds no document")
	}
	all, special := strings.Join(c.documents, ""), []string{c.eos}
	if utf8.RuneCountInString(c.eos) == 1 { // a character like the others
		all, special = all+c.eos, nil
	}
	c.tok, err = pf.load(all, special...)
	if err != nil {
		return nil, err
	}
	id, ok := c.tok.ID(c.eos)
	if !ok && pf.eos == "" {
		return nil, advise(fmt.Errorf("the separator %q is no token of the tokenizer", sep), "name the token that is to end a document, e.g. --eos '</s>'")
	} else if !ok {
		return nil, usagef("--eos %q is no token of the tokenizer", c.eos)
	}
	c.separator = &id
	return c, nil
}

// load is the tokenizer that was asked for; char is that of text and some special tokens.
func (pf *prepareFlags) load(text string, special ...string) (*hf.Tokenizer, error) {
	switch {
	case pf.held != nil:
		return pf.held, nil
	case pf.tokenizer != charTokens:
		return tokenizerOf(pf.tokenizer)
	case text == "":
		return nil, errors.New("the text is empty")
	}
	return hf.NewChar(text, special...)
}

// tokens are those of all documents.
func (c *corpus) tokens(ctx context.Context, a *app) ([]int32, error) {
	docs, err := a.encode(ctx, c.tok, c.documents...)
	if err != nil {
		return nil, err
	}
	if c.separator == nil {
		return docs[0], nil
	}
	var out []int32
	before, _ := c.tok.Around()
	if slices.Contains(before, *c.separator) { // of tokenizers with one token for both ends
		before = nil
	}
	for _, ids := range docs {
		out = append(append(append(out, before...), ids...), *c.separator)
	}
	return out, nil
}

// tokenizerOf reads a tokenizer.json, or that of a directory.
func tokenizerOf(name string) (*hf.Tokenizer, error) {
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		name = filepath.Join(name, node.TokenizerFile)
		if err := regular(name); err != nil {
			return nil, fmt.Errorf("tokenizer: %w", err)
		}
	}
	b, err := readBounded(name, maxTokenizer)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t, err := hf.LoadTokenizer(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

// prepare stores tokenizer, shards and index, pins them and returns them all.
func (s *session) prepare(ctx context.Context, c *corpus, val float64) (*prepared, []wire.CID, error) {
	tok := c.tok
	tokens, err := c.tokens(ctx, s.app)
	if err != nil {
		return nil, nil, err
	}
	t, err := s.blocks.PutFile(ctx, tok.JSON())
	if err != nil {
		return nil, nil, fmt.Errorf("store the tokenizer: %w", err)
	}
	o := shard.Options{Val: int(val*10000 + 0.5)}
	if o.Val == 0 {
		o.Val = -1
	}
	p, err := shard.Prepare(tokens, t, uint64(tok.VocabSize()), o)
	if err != nil {
		return nil, nil, err
	}
	roots := []wire.CID{p.CID, t}
	if _, err := s.blocks.Put(ctx, wire.CodecDagCBOR, p.Block); err != nil {
		return nil, nil, fmt.Errorf("store the index: %w", err)
	}
	for _, b := range p.Blocks {
		if err := s.store.PutCID(ctx, b.CID, b.Data); err != nil {
			return nil, nil, fmt.Errorf("store a shard: %w", err)
		}
		roots = append(roots, b.CID)
	}
	if err := s.store.Pin("prepared/"+p.CID.String(), roots...); err != nil {
		return nil, nil, err
	}
	out := &prepared{Tokenizer: t, Data: p.CID, Vocab: tok.VocabSize(), Train: shard.Tokens(p.Index.Train), Val: shard.Tokens(p.Index.Val), Shards: len(p.Blocks)}
	if c.separator != nil {
		out.Documents, out.Separator = len(c.documents), c.separator
	}
	return out, roots, nil
}

func (a *app) dataImportCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE",
		Short:   "Bring prepared data from another machine into the data directory",
		Example: "  shoal data import data.car",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			f, err := open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			s, err := a.offline()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			roots, err := s.store.ImportCAR(cmd.Context(), interruptible(cmd.Context(), f), maxLineage)
			if err != nil {
				return advise(fmt.Errorf("%s: %w", args[0], err), "make it with `shoal data prepare TEXT --out %s`", args[0])
			}
			if len(roots) < 2 {
				return advise(fmt.Errorf("%s is not prepared data", args[0]), "make it with `shoal data prepare TEXT --out %s`", args[0])
			}
			if err := s.store.Pin("prepared/"+roots[0].String(), roots...); err != nil {
				return err
			}
			return a.show(map[string]any{"data": roots[0], "tokenizer": roots[1], "blocks": len(roots)},
				fmt.Sprintf("tokenizer: %s\ndata: %s\n", roots[1], roots[0]))
		},
	}
}

// An editable is a manifest's YAML whose layout and comments survive an edit.
type editable struct {
	name  string
	lines []string
}

func openEditable(name string) (*editable, error) {
	b, err := readBounded(name, manifest.MaxSize)
	if err != nil {
		return nil, advise(fmt.Errorf("manifest: %w", err), "begin with `shoal manifest init > %s`", name)
	}
	e := &editable{name: name, lines: strings.Split(string(b), "\n")}
	_, err = e.top()
	return e, err
}

// top parses what stands there now.
func (e *editable) top() (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(strings.Join(e.lines, "\n")), &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", e.name, err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, advise(fmt.Errorf("%s is not a manifest", e.name), "begin with `shoal manifest init > %s`", e.name)
	}
	return doc.Content[0], nil
}

// unpacked refuses a manifest that wants documents kept apart.
func (e *editable) unpacked() error {
	top, err := e.top()
	if err != nil {
		return err
	}
	_, inner := field(top, "inner")
	if _, v := field(inner, "separator"); v != nil {
		return advise(fmt.Errorf("%s: inner.separator is %s, and the text is not split into documents", e.name, v.Value), "say what stands between them with --split, or take inner.separator out of the manifest")
	}
	return nil
}

// fill writes what was prepared, and makes the model's vocabulary large enough.
func (e *editable) fill(p *prepared) error {
	vocab := strconv.Itoa(p.Vocab)
	top, err := e.top()
	if err != nil {
		return err
	}
	_, model := field(top, "model")
	_, cfg := field(model, "config")
	if _, v := field(cfg, "vocab_size"); v != nil {
		if n, err := strconv.Atoi(v.Value); err == nil && n >= p.Vocab {
			vocab = v.Value
		}
	}
	type entry struct{ value, key string }
	entries := []entry{{vocab, "model.config.vocab_size"}, {p.Tokenizer.String(), "tokenizer"}, {p.Data.String(), "data"}}
	if p.Separator != nil {
		id := strconv.Itoa(int(*p.Separator))
		entries = append(entries, entry{id, "inner.separator"})
		if _, v := field(cfg, "eos_token_id"); v == nil { // generate ends there, too
			entries = append(entries, entry{"[" + id + "]", "model.config.eos_token_id"})
		}
	}
	for _, f := range entries {
		if err := e.set(strings.Split(f.key, "."), f.value); err != nil {
			return fmt.Errorf("%s: %s: %w", e.name, f.key, err)
		}
	}
	return writeFile(e.name, []byte(strings.Join(e.lines, "\n")), 0o644)
}

// set gives a key a plain value: in place of the scalar that it has, or before its
// mapping's first entry, on a line of its own or, in braces, on that one's.
func (e *editable) set(path []string, value string) error {
	at, err := e.top()
	if err != nil {
		return err
	}
	for len(path) > 1 {
		_, v := field(at, path[0])
		if v == nil || v.Kind != yaml.MappingNode || len(v.Content) == 0 {
			return fmt.Errorf("the manifest has no %q with something in it", path[0])
		}
		at, path = v, path[1:]
	}
	if _, v := field(at, path[0]); v != nil {
		if v.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d holds more than one value", v.Line)
		}
		line := e.lines[v.Line-1]
		from := v.Column - 1
		e.lines[v.Line-1] = line[:from] + value + line[from+scalarLen(line[from:]):]
		return nil
	}
	first := at.Content[0]
	if at.Style&yaml.FlowStyle != 0 {
		line, from := e.lines[first.Line-1], first.Column-1
		e.lines[first.Line-1] = line[:from] + path[0] + ": " + value + ", " + line[from:]
		return nil
	}
	text := strings.Repeat(" ", first.Column-1) + path[0] + ": " + value
	e.lines = slices.Insert(e.lines, first.Line-1, text)
	return nil
}

// scalarLen is how much of a line's rest is its first scalar.
func scalarLen(s string) int {
	if s == "" {
		return 0
	}
	if q := s[0]; q == '"' || q == '\'' {
		if n := strings.IndexByte(s[1:], q); n >= 0 {
			return n + 2
		}
	}
	n := len(s)
	for _, end := range []string{" #", ",", "}"} {
		if i := strings.Index(s, end); i >= 0 {
			n = min(n, i)
		}
	}
	return len(strings.TrimRight(s[:n], " \t"))
}

// field returns a mapping's key and value, nil where there is none.
func field(m *yaml.Node, key string) (k, v *yaml.Node) {
	if m == nil {
		return nil, nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i], m.Content[i+1]
		}
	}
	return nil, nil
}
