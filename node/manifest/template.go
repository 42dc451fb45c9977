package manifest

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

//go:embed template.yaml
var template string

// Template returns a commented manifest to edit: a small model that two cores
// can train. Undefined CIDs and a vocab of 0 leave the fields to be filled in by
// hand; Parse then names them.
func Template(name string, tokenizer, data wire.CID, vocab int) []byte {
	return fill(template, name, tokenizer, data,
		"VOCAB", strconv.Itoa(vocab), "LEARN", "0.005", "LEAST", "0.0005", "LENGTH", "64", "STEPS", "20", "PATIENCE", "60s")
}

// maxTemplateSequence is the length of sequences that Continue proposes, where the
// model reads as many tokens.
const maxTemplateSequence = 512

// Continue is Template for a run that goes on from a model: the weights in base,
// which are those of cfg. Rates and lengths are a beginning for models of some
// hundred million parameters.
func Continue(name string, cfg hf.Config, base, tokenizer wire.CID) ([]byte, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("model.config: %w", err)
	}
	var config bytes.Buffer
	e := yaml.NewEncoder(&config)
	e.SetIndent(2)
	c := ConfigOf(cfg)
	if err := errors.Join(e.Encode(map[string]any{"config": &c}), e.Close()); err != nil {
		return nil, fmt.Errorf("model.config: %w", err)
	}
	// The model's section is another one; what surrounds it stays.
	before, rest, _ := strings.Cut(template, "\nmodel:\n")
	_, after, _ := strings.Cut(rest, "\n\n")
	section := "\nmodel:\n" + strings.TrimSuffix("  "+strings.ReplaceAll(config.String(), "\n", "\n  "), "  ") +
		"  base: " + base.String() + "  # the checkpoint that the run starts from\n\n"
	return fill(before+section+after, name, tokenizer, "",
		"LEARN", "2e-5 ", "LEAST", "2e-6  ", "LENGTH", strconv.Itoa(min(maxTemplateSequence, cfg.MaxPositionEmbeddings)), "STEPS", "100", "PATIENCE", "30m"), nil
}

func fill(text, name string, tokenizer, data wire.CID, also ...string) []byte {
	cid := func(c wire.CID) string {
		if !c.Defined() {
			return `""`
		}
		return c.String()
	}
	return []byte(strings.NewReplacer(append(also, "NAME", name, "TOKENIZER", cid(tokenizer), "DATA", cid(data))...).Replace(text))
}
