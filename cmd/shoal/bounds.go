package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
)

// bosByDefault are classes of tokenizers that put a BOS before a text unless
// tokenizer_config.json says otherwise, and its name where the file leaves it out.
var bosByDefault = map[string]string{
	"LlamaTokenizer": "<s>", "LlamaTokenizerFast": "<s>", "CodeLlamaTokenizer": "<s>", "CodeLlamaTokenizerFast": "<s>",
	"GemmaTokenizer": "<bos>", "GemmaTokenizerFast": "<bos>",
}

// bosHelp is around, for --help.
const bosHelp = `The BOS is that of transformers' tokenizer(text): bos_token where tokenizer_config.json says
add_bos_token: true, none where it says false; else what the post-processor of
tokenizer.json adds.`

// bounds are what tokenizer_config.json says of a text's beginning and end.
type bounds struct {
	Class  string          `json:"tokenizer_class"`
	BOS    json.RawMessage `json:"bos_token"`
	EOS    json.RawMessage `json:"eos_token"`
	AddBOS *bool           `json:"add_bos_token"`
	AddEOS *bool           `json:"add_eos_token"`
}

// readBounds reads tokenizer_config.json, which may be missing (nil).
func readBounds(config []byte) (b bounds, err error) {
	if config == nil {
		return b, nil
	}
	if err := hf.Unmarshal(config, &b); err != nil {
		return b, fmt.Errorf("%s: %w", tokenizerConfigFile, err)
	}
	return b, nil
}

// named is the token that a field of tokenizer_config.json names; none where it names none.
func named(tok *hf.Tokenizer, field, name string) ([]int32, error) {
	if name == "" {
		return nil, nil
	}
	id, ok := tok.ID(name)
	if !ok {
		return nil, fmt.Errorf("%s: %s %.40q is not in the vocabulary", tokenizerConfigFile, field, name)
	}
	return []int32{id}, nil
}

// around are the tokens that transformers' tokenizer(text) puts before and after a text.
// Where tokenizer_config.json, which may be missing (nil), says add_bos_token or
// add_eos_token, these are its bos_token and eos_token, as transformers 5 has it; else what the post-processor
// of tokenizer.json puts there. Without either only tokenizers of Llama's and Gemma's classes have a BOS.
func around(tok *hf.Tokenizer, config []byte) (before, after []int32, err error) {
	j, err := readBounds(config)
	if err != nil {
		return nil, nil, err
	}
	return j.around(tok)
}

func (j *bounds) around(tok *hf.Tokenizer) (before, after []int32, err error) {
	before, after = tok.Around()
	byDefault, ofClass := bosByDefault[j.Class]
	bare := len(before)+len(after) == 0
	if j.AddBOS == nil && j.AddEOS == nil && !(bare && ofClass) {
		return before, after, nil
	}
	before, after = nil, nil
	if j.AddBOS != nil && *j.AddBOS || j.AddBOS == nil && ofClass {
		name := tokenName(j.BOS)
		if _, there := tok.ID(byDefault); name == "" && there {
			name = byDefault
		}
		before, err = named(tok, "bos_token", name)
	}
	if err == nil && j.AddEOS != nil && *j.AddEOS {
		after, err = named(tok, "eos_token", tokenName(j.EOS))
	}
	return before, after, err
}

// beginning is what a document begins with that is to be predicted from its first token on: what
// around says, and where that is nothing and config does not forbid it, its bos_token.
func beginning(tok *hf.Tokenizer, config []byte) ([]int32, error) {
	j, err := readBounds(config)
	if err != nil {
		return nil, err
	}
	before, _, err := j.around(tok)
	if err != nil || len(before) > 0 || j.AddBOS != nil && !*j.AddBOS {
		return before, err
	}
	return named(tok, "bos_token", tokenName(j.BOS))
}

// ends puts into cfg what all files of a model say of how its texts begin and end, for a
// reader of only one. Its BOS is bos_token of tokenizer_config.json, where that names a token, or
// else bos_token_id of config.json or generation_config.json. Its EOS are eos_token, which templates
// ask for, and where generate ends a text: eos_token_id of generation_config.json, or else of config.json.
func ends(cfg *hf.Config, tok *hf.Tokenizer, files map[string][]byte) error {
	j, err := readBounds(files[tokenizerConfigFile])
	if err != nil {
		return err
	}
	var g hf.Generation
	if b := files[generationFile]; b != nil {
		if g, err = hf.ParseGeneration(b); err != nil {
			return err
		}
	}
	if id, ok := tok.ID(tokenName(j.BOS)); ok {
		bos := int(id)
		cfg.BOS = &bos
	} else if cfg.BOS == nil {
		cfg.BOS = g.BOS
	}
	if len(g.EOS) > 0 {
		cfg.EOS = g.EOS
	}
	if id, ok := tok.ID(tokenName(j.EOS)); ok {
		cfg.EOS = slices.Insert(slices.DeleteFunc(slices.Clone(cfg.EOS), func(e int) bool { return e == int(id) }), 0, int(id))
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("%s, %s, %s: %w", node.ConfigFile, generationFile, tokenizerConfigFile, err)
	}
	return nil
}
