package hf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// NewChar returns the tokenizer whose tokens are the characters of text (not
// empty), numbered by code point. Its tokenizer.json is one that Hugging Face's
// libraries load: a BPE model without merges behind a split into characters.
// Characters that do not occur in text are dropped by Encode, as there. Special
// tokens, such as "<|endoftext|>", are numbered behind the characters.
func NewChar(text string, special ...string) (*Tokenizer, error) {
	seen := map[rune]bool{}
	for _, r := range text {
		seen[r] = true
	}
	chars := make([]rune, 0, len(seen))
	for r := range seen {
		chars = append(chars, r)
	}
	slices.Sort(chars)
	var b bytes.Buffer
	b.WriteString(`{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [`)
	for i, s := range special {
		if i > 0 {
			b.WriteByte(',')
		}
		a := addedJSON{ID: len(chars) + i, Content: s, Special: true}
		j, err := json.Marshal(a)
		if err != nil {
			return nil, fmt.Errorf("special token %.40q: %w", s, err)
		}
		b.Write(j)
	}
	b.WriteString(`],
  "normalizer": null,
  "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
  "post_processor": null,
  "decoder": {"type": "Fuse"},
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {`)
	for i, r := range chars {
		key, err := json.Marshal(string(r))
		if err != nil {
			return nil, fmt.Errorf("character %U: %w", r, err)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n      %s: %d", key, i)
	}
	b.WriteString("\n    },\n    \"merges\": []\n  }\n}\n")
	t, err := LoadTokenizer(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("character tokenizer: %w", err)
	}
	return t, nil
}

// TokenizerConfig returns a tokenizer_config.json to lie beside t's
// tokenizer.json in a model directory. Without one, transformers goes by the
// model's type and gives a Llama special tokens that t may not have.
func TokenizerConfig(t *Tokenizer, c Config) ([]byte, error) {
	j := struct {
		Class   string  `json:"tokenizer_class"`
		CleanUp bool    `json:"clean_up_tokenization_spaces"`
		Length  int     `json:"model_max_length"`
		BOS     *string `json:"bos_token,omitempty"`
		EOS     *string `json:"eos_token,omitempty"`
	}{Class: "PreTrainedTokenizerFast", Length: c.MaxPositionEmbeddings}
	name := func(id int) *string {
		if id < 0 || id >= len(t.tokens) || t.tokens[id] == "" {
			return nil
		}
		return &t.tokens[id]
	}
	if c.BOS != nil {
		j.BOS = name(*c.BOS)
	}
	if len(c.EOS) > 0 {
		j.EOS = name(c.EOS[0])
	}
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return append(b, '\n'), nil
}
