package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/gpu/hf"
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
	val                  float64
}

// prepared is what data prepare prints.
type prepared struct {
	Tokenizer wire.CID `json:"tokenizer"`
	Data      wire.CID `json:"data"`
	Vocab     int      `json:"vocab_size"`
	Train     uint64   `json:"train_tokens"`
	Val       uint64   `json:"val_tokens"`
	Shards    int      `json:"shards"`
}

func (a *app) dataPrepareCmd() *cobra.Command {
	var pf prepareFlags
	c := &cobra.Command{
		Use:   "prepare TEXT",
		Short: "Tokenize a text into blocks and name them for a manifest",
		Long: `Puts the tokenizer, token shards and their index as blocks into the data directory,
from where publish serves them. The last tenth of the text is for validation. The same
text and tokenizer give the same CIDs everywhere.`,
		Example: `  shoal data prepare corpus.txt --tokenizer char --into run.yaml
  shoal data prepare corpus.txt --tokenizer tokenizer.json   # prints the lines to paste
  shoal data prepare corpus.txt --out data.car               # to take to another machine`,
		Args: exactly("TEXT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.prepareData(cmd.Context(), args[0], pf) },
	}
	f := c.Flags()
	f.StringVar(&pf.tokenizer, "tokenizer", charTokens, "char (each character of the text is a token), or a tokenizer.json")
	f.StringVar(&pf.into, "into", "", "manifest to write the CIDs into")
	f.StringVar(&pf.out, "out", "", "also write all blocks to this CAR file")
	f.Float64Var(&pf.val, "val", 0.1, "share of the text, its end, that is for validation")
	return c
}

func (a *app) prepareData(ctx context.Context, name string, pf prepareFlags) (err error) {
	text, err := readBounded(name, maxText)
	if err != nil {
		return fmt.Errorf("text: %w", err)
	}
	if !utf8.Valid(text) {
		return advise(fmt.Errorf("%s is not UTF-8 text", name), "convert it, e.g. with iconv -t UTF-8")
	}
	if !(pf.val >= 0 && pf.val <= 0.9) {
		return usagef("--val %g: want 0 to 0.9", pf.val)
	}
	var target *editable
	if pf.into != "" { // before the work: a manifest that cannot be edited ends it here
		if target, err = openEditable(pf.into); err != nil {
			return err
		}
	}
	tok, err := loadTokenizer(pf.tokenizer, string(text))
	if err != nil {
		return err
	}
	s, err := a.offline()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	out, roots, err := s.prepare(ctx, tok, string(text), pf.val)
	if err != nil {
		return err
	}
	if target != nil {
		if err := target.fill(out); err != nil {
			return err
		}
	}
	if pf.out != "" {
		f, err := os.Create(pf.out)
		if err != nil {
			return err
		}
		if err := errors.Join(s.store.ExportCAR(ctx, f, roots), f.Close()); err != nil {
			return err
		}
	}
	text2 := fmt.Sprintf("tokenizer: %s\ndata: %s\n", out.Tokenizer, out.Data)
	if target != nil {
		text2 = fmt.Sprintf("%s now names\n  tokenizer  %s\n  data       %s\n", pf.into, out.Tokenizer, out.Data)
	}
	a.say("%s tokens to train on, %s to validate, a vocabulary of %d, %d shards in %s", count(float64(out.Train)), count(float64(out.Val)), out.Vocab, out.Shards, a.dir)
	if target == nil && !a.json {
		a.say("put these lines into the manifest, and vocab_size: %d into its model.config:", out.Vocab)
	}
	return a.show(out, text2)
}

func loadTokenizer(name, text string) (*hf.Tokenizer, error) {
	if name == charTokens {
		if text == "" {
			return nil, errors.New("the text is empty")
		}
		return hf.NewChar(text)
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
func (s *session) prepare(ctx context.Context, tok *hf.Tokenizer, text string, val float64) (*prepared, []wire.CID, error) {
	t, err := s.blocks.PutFile(ctx, tok.JSON())
	if err != nil {
		return nil, nil, fmt.Errorf("store the tokenizer: %w", err)
	}
	o := shard.Options{Val: int(val*10000 + 0.5)}
	if o.Val == 0 {
		o.Val = -1
	}
	p, err := shard.Prepare(tok.Encode(text), t, uint64(tok.VocabSize()), o)
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
	return &prepared{t, p.CID, tok.VocabSize(), shard.Tokens(p.Index.Train), shard.Tokens(p.Index.Val), len(p.Blocks)}, roots, nil
}

func (a *app) dataImportCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE",
		Short:   "Bring prepared data from another machine into the data directory",
		Example: "  shoal data import data.car",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			s, err := a.offline()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			roots, err := s.store.ImportCAR(cmd.Context(), f, maxLineage)
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
	for _, f := range []struct{ value, key string }{
		{vocab, "model.config.vocab_size"}, {p.Tokenizer.String(), "tokenizer"}, {p.Data.String(), "data"},
	} {
		if err := e.set(strings.Split(f.key, "."), f.value); err != nil {
			return fmt.Errorf("%s: %s: %w", e.name, f.key, err)
		}
	}
	return writeFile(e.name, []byte(strings.Join(e.lines, "\n")), 0o644)
}

// set gives a key a plain scalar: in place of the one that it has, or on a new
// line at the end of its mapping's first entry, or of the file.
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
	if at.Style&yaml.FlowStyle != 0 {
		return fmt.Errorf("line %d: write the mapping over several lines", at.Line)
	}
	first := at.Content[0]
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
