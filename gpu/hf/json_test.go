package hf

import (
	"strings"
	"testing"
)

// What is wrong with a file is told in its own words, not in those of Go.
func TestUnmarshal(t *testing.T) {
	config := func(b []byte) error { _, err := ParseConfig(b); return err }
	tokenizer := func(b []byte) error { _, err := LoadTokenizer(b); return err }
	generation := func(b []byte) error { _, err := ParseGeneration(b); return err }
	weights := func(b []byte) error { _, err := ReadSafetensors(b); return err }
	index := func(b []byte) error { _, err := ParseShardIndex(b); return err }
	for _, c := range []struct {
		parse    func([]byte) error
		in, want string
	}{
		{config, "", "config.json: it is empty"},
		{config, " \n", "config.json: it is empty"},
		{config, "[]", "config.json: it is an array, want an object"},
		{config, "{\n\"a\": 1,\n\"b\": [1", "config.json: it ends too early"},
		{config, "{\n\"a\": 1,\n\"b\": nan}", "config.json: line 3: "},
		{config, "\xef\xbb\xbf{}", "config.json: it begins with a byte-order mark"},
		{config, `{"hidden_size": "64"}`, "config.json: hidden_size: it is a string, want a whole number"},
		{config, `{"hidden_size": 64.5}`, "config.json: hidden_size: it is a number 64.5, want a whole number"},
		{config, `{"hidden_size": 1e99}`, "config.json: hidden_size: it is a number 1e99, want a whole number in range"},
		{config, `{"rope_scaling": {"factor": true}}`, "config.json: rope_scaling.factor: it is true or false, want a number"},
		{config, `{"architectures": "x"}`, "config.json: architectures: it is a string, want an array"},
		{config, `{"eos_token_id": "x"}`, "config.json: eos_token_id: it is a string, want a whole number"},
		{config, `{"eos_token_id": [1, "x"]}`, "config.json: eos_token_id: it is a string, want a whole number"},
		{tokenizer, `{"model": {"type": "BPE", "vocab": []}}`, "tokenizer.json: model: vocab: it is an array, want an object"},
		{tokenizer, `{"model": {"type": "BPE", "vocab": {}, "merges": [1]}}`, "tokenizer.json: model: merges: it is a number, want a string"},
		{tokenizer, "version https://git-lfs…\noid sha256:00\nsize 1\n", "tokenizer.json: it is only a pointer of Git LFS"},
		{generation, "[]", "generation_config.json: it is an array, want an object"},
		{weights, "version https://git-lfs…\noid sha256:00\nsize 1\n", "safetensors: it is only a pointer of Git LFS"},
		{index, `{"weight_map": {"a": 1}}`, "safetensors index: weight_map: it is a number, want a string"},
	} {
		err := c.parse([]byte(c.in))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "Go ") {
			t.Errorf("%q: %v, want %q", c.in, err, c.want)
		}
	}
}
