package hf

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func load(t testing.TB, b []byte) *Tokenizer {
	t.Helper()
	tok, err := LoadTokenizer(b)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// The vectors were made with the Rust library (tokenizers, in its Node binding 0.6.0).
func TestTokenizerVectors(t *testing.T) {
	var v struct {
		Strings []string
		IDs     map[string][][]int32
		Decoded map[string][]string
	}
	if err := json.Unmarshal(shared(t, "vectors/tokenizer.json"), &v); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"gpt2":       "data/tokenizers/gpt2/tokenizer.json",
		"qwen3":      "data/tokenizers/qwen3/tokenizer.json",
		"stories512": "data/models/stories260K-hf/tokenizer.json",
	} {
		t.Run(name, func(t *testing.T) {
			tok := load(t, shared(t, file))
			if len(v.Strings) == 0 || len(v.IDs[name]) != len(v.Strings) || len(v.Decoded[name]) != len(v.Strings) {
				t.Fatal("vectors are incomplete")
			}
			for i, s := range v.Strings {
				if got := tok.Encode(s); !slices.Equal(got, v.IDs[name][i]) {
					t.Errorf("%q: got %d, want %d", s, got, v.IDs[name][i])
				}
				if got := tok.Decode(v.IDs[name][i]); got != v.Decoded[name][i] {
					t.Errorf("decode %d: got %q, want %q", v.IDs[name][i], got, v.Decoded[name][i])
				}
			}
		})
	}
}

func TestStoriesBOS(t *testing.T) {
	tok := load(t, shared(t, "data/models/stories260K-hf/tokenizer.json"))
	if got := prompt(tok, "Once"); len(got) < 2 || got[0] != 1 || !slices.Equal(got[1:], tok.Encode("Once")) {
		t.Errorf("got %d, want BOS (1) first", got)
	}
	if id, ok := tok.ID("</s>"); !ok || id != 2 {
		t.Errorf("</s> is %d, %v", id, ok)
	}
}

// The small tokenizers of testdata exercise each stage; their IDs are the Rust
// library's.
func TestTokenizerFixtures(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "tokenizers.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Cases []struct {
			Name                string
			Tokenizer           json.RawMessage
			Strings, Decoded    []string
			IDs, Prompt, Random [][]int32
			RandomDecoded       []string `json:"random_decoded"`
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Cases) != 4 {
		t.Fatalf("%d cases", len(v.Cases))
	}
	for _, c := range v.Cases {
		t.Run(c.Name, func(t *testing.T) {
			tok := load(t, c.Tokenizer)
			for i, s := range c.Strings {
				if got := tok.Encode(s); !slices.Equal(got, c.IDs[i]) {
					t.Errorf("encode %q: got %d, want %d", s, got, c.IDs[i])
				}
				if got := prompt(tok, s); !slices.Equal(got, c.Prompt[i]) {
					t.Errorf("prompt %q: got %d, want %d", s, got, c.Prompt[i])
				}
				if got := tok.Decode(c.IDs[i]); got != c.Decoded[i] {
					t.Errorf("decode %d: got %q, want %q", c.IDs[i], got, c.Decoded[i])
				}
				if got := tok.Decode(c.Random[i]); got != c.RandomDecoded[i] {
					t.Errorf("decode %d: got %q, want %q", c.Random[i], got, c.RandomDecoded[i])
				}
			}
			if got := tok.Decode([]int32{-1, int32(tok.VocabSize()), 1 << 30}); got != "" {
				t.Errorf("tokens out of range became %q", got)
			}
		})
	}
}

// Edges of added tokens, Metaspace, digits and further splits; their IDs are the
// Rust library's (edges.mjs).
func TestTokenizerEdges(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "edges.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Strings []string
		Cases   []struct {
			Name      string
			Tokenizer json.RawMessage
			IDs       [][]int32
			Decoded   []string
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Cases) != 24 || len(v.Strings) < 150 {
		t.Fatalf("%d cases, %d strings", len(v.Cases), len(v.Strings))
	}
	for _, c := range v.Cases {
		t.Run(c.Name, func(t *testing.T) {
			tok := load(t, c.Tokenizer)
			for i, s := range v.Strings {
				if got := tok.Encode(s); !slices.Equal(got, c.IDs[i]) {
					t.Errorf("encode %q: got %d, want %d", s, got, c.IDs[i])
				}
				if got := tok.Decode(c.IDs[i]); got != c.Decoded[i] {
					t.Errorf("decode %d: got %q, want %q", c.IDs[i], got, c.Decoded[i])
				}
			}
		})
	}
}

func TestCharTokenizer(t *testing.T) {
	const text = "Call me Ishmael.\n\t\"é\" 漢 🙂 \u0000\\"
	tok, err := NewChar(text)
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode(text)
	if len(ids) != len([]rune(text)) {
		t.Errorf("%d tokens of %d characters", len(ids), len([]rune(text)))
	}
	if got := tok.Decode(ids); got != text {
		t.Errorf("came back as %q", got)
	}
	if id, ok := tok.ID("\x00"); !ok || id != 0 {
		t.Errorf("the lowest code point has ID %d, %v", id, ok)
	}
	if got := tok.Decode(tok.Encode("Zorba me")); got != "a me" {
		t.Errorf("unknown characters: %q", got)
	}
	again := load(t, tok.JSON())
	if !slices.Equal(again.Encode(text), ids) || again.VocabSize() != tok.VocabSize() || string(again.JSON()) != string(tok.JSON()) {
		t.Error("the JSON loads as another tokenizer")
	}
	if same, err := NewChar("🙂漢" + text); err != nil || string(same.JSON()) != string(tok.JSON()) {
		t.Error("the JSON depends on the order of the text")
	}
	if _, err := NewChar(""); err == nil {
		t.Error("a tokenizer of nothing")
	}
	bad, err := NewChar("a\xffb")
	if err != nil || bad.VocabSize() != 3 || !slices.Equal(bad.Encode("a\xffb"), []int32{0, 2, 1}) {
		t.Errorf("bytes that are not UTF-8: %v", err)
	}
	if got := bad.Encode("a\xe6\xbc\xffb"); !slices.Equal(got, []int32{0, 2, 2, 1}) { // the first two are one subpart
		t.Errorf("a character cut short: got %d", got)
	}
}

// prompt is text between what the post-processor puts around it.
func prompt(t *Tokenizer, text string) []int32 {
	before, after := t.Around()
	return slices.Concat(before, t.Encode(text), after)
}

func TestTokenizerConfig(t *testing.T) {
	tok, err := NewChar("abc")
	if err != nil {
		t.Fatal(err)
	}
	c := tiny()
	two := 2
	c.BOS = &two
	b, err := TokenizerConfig(tok, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"tokenizer_class": "PreTrainedTokenizerFast"`, `"bos_token": "c"`, `"model_max_length": 16`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
}

func TestMergeLongIsMergeShort(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		m := bpe{merges: map[uint64]merge{}}
		top := int32(3)
		for rank := range int32(1 + rng.IntN(25)) { // each merge makes a token of its own, as in a real vocabulary
			p := pair(rng.Int32N(top), rng.Int32N(top))
			if _, ok := m.merges[p]; !ok {
				m.merges[p] = merge{rank, top}
				top++
			}
		}
		w := make([]int32, 2+rng.IntN(120))
		for i := range w {
			w[i] = rng.Int32N(3)
		}
		long := slices.Clone(w)
		w, long = w[:m.mergeShort(w)], long[:m.mergeLong(long, nil)]
		if !slices.Equal(w, long) {
			t.Fatalf("got %d, want %d", long, w)
		}
	}
}

func TestLossyMaximalSubparts(t *testing.T) {
	// The examples of the Unicode Standard, table 3-8 and 3-11, and truncations.
	for in, want := range map[string]string{
		"\xc0\xafA":                         "??A",
		"\xed\xa0\x80A":                     "???A",
		"\xf4\x91\x92\x93\xffA\x80\xbfB":    "?????A??B",
		"\xe1\x80\xe2\xf0\x91\x92\xf1\xbfA": "????A",
		"\xe6\xbc":                          "?",
		"\xf0\x9f\x99":                      "?",
		"ok":                                "ok",
	} {
		if got := lossy([]byte(in)); got != strings.ReplaceAll(want, "?", "\uFFFD") {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

const smallTokenizer = `{"added_tokens":[{"id":4,"content":"<s>","normalized":false}],"normalizer":{"type":"NFC"},
	"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"post_processor":null,"decoder":{"type":"ByteLevel"},
	"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"Ġ":3},"merges":["a b"]}}`

func TestLoadTokenizerRefuses(t *testing.T) {
	load(t, []byte(smallTokenizer))
	for _, c := range []struct{ old, new, want string }{
		{`"NFC"`, `"Precompiled"`, "normalizer"},
		{`{"type":"NFC"}`, `{"type":"Replace","pattern":{"Regex":"x*"},"content":"y"}`, "normalizer"},
		{`{"type":"NFC"}`, `{"type":"Replace","pattern":{"Regex":"x(?=y)"},"content":"y"}`, "(?=y)"},
		{`{"type":"NFC"}`, `{"type":"Replace","pattern":{"String":"x"},"content":"yyyyyyyyyyyy"}`, "normalizer"},
		{`{"type":"NFC"}`, `{"type":"Sequence","normalizers":[{"type":"Sequence","normalizers":[{"type":"Nmt"}]}]}`, "normalizer"},
		{`"ByteLevel","add_prefix_space":false`, `"Metaspace"`, "replacement"},
		{`"ByteLevel","add_prefix_space":false`, `"Metaspace","replacement":"▁","prepend_scheme":"sometimes"`, "prepend_scheme"},
		{`"ByteLevel","add_prefix_space":false`, `"Split","pattern":{"String":" "},"behavior":"Apart"`, "Apart"},
		{`"ByteLevel","add_prefix_space":false`, `"UnicodeScripts"`, "pre_tokenizer: UnicodeScripts"},
		{`"ByteLevel","add_prefix_space":false`, `"CharDelimiterSplit"`, "delimiter"},
		{`"ByteLevel","add_prefix_space":false`, `"Split","pattern":{"Regex":"\\d"},"behavior":"MergedWithNext","invert":true`, "inverted"},
		{`"ByteLevel","add_prefix_space":false`, `"Split","behavior":"Isolated"`, "matches nothing"},
		{`"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"WordPiece"}`, "decoder"},
		{`"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"Strip","content":"xx"}`, "decoder"},
		{`"post_processor":null`, `"post_processor":{"type":"BertProcessing","sep":["a",9],"cls":["b",1]}`, "sep 9"},
		{`"post_processor":null`, `"post_processor":{"type":"BertProcessing","sep":["a"]}`, "its id"},
		{`"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[]}`, "post_processor"},
		{`"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[99]}}}`, "post_processor"},
		{`"type":"BPE"`, `"type":"Unigram"`, "model"},
		{`"type":"BPE"`, `"type":"BPE","dropout":0.1`, "dropout"},
		{`"type":"BPE"`, `"type":"BPE","unk_token":"?"`, "unk_token"},
		{`"type":"BPE"`, `"type":"BPE","end_of_word_suffix":"</w>"`, "end_of_word_suffix"},
		{`"type":"BPE"`, `"type":"BPE","byte_fallback":true`, "byte_fallback with"},
		{`"b":1`, `"b":0`, "more than one"},
		{`"b":1`, `"b":-1`, "out of bounds"},
		{`"b":1`, `"b":4294967296`, "out of bounds"},
		{`"b":1`, `"b":1,"":7`, "out of bounds"},
		{`{"a":0,"b":1,"ab":2,"Ġ":3}`, `{}`, "model.vocab"},
		{`"a b"`, `"a"`, "merges[0]"},
		{`"a b"`, `["a"]`, "merges[0]"},
		{`"a b"`, `"b a"`, "merges[0]"},
		{`"id":4`, `"id":3`, "contradicts"},
		{`"<s>"`, `"a"`, "contradicts"},
		{`"<s>"`, `"` + strings.Repeat("s", maxAddedLen+1) + `"`, "added_tokens"},
		{`"model"`, `"mode"`, "model is missing"},
		{`{"added`, `["added`, "tokenizer.json"},
	} {
		s := strings.Replace(smallTokenizer, c.old, c.new, 1)
		if s == smallTokenizer {
			t.Errorf("%s is not in the sample", c.old)
		}
		if _, err := LoadTokenizer([]byte(s)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error about %q", c.new, err, c.want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct{ pattern, want string }{
		{`a^`, `"^"`}, {`(?<=a)b`, "group"}, {`(?!a)b`, "group"}, {`(?i)a`, "group"}, {`(?P<n>a)`, "group"}, {`a++`, "operator"}, {`a?+b`, "operator"},
		{`\bword`, "escape"}, {`\1`, "escape"}, {`\h`, "escape"}, {`\`, "backslash"}, {`[a[^b]]`, "within a class"}, {`[[:alpha:]]`, "within a class"},
		{`[a&&b]`, "&&"}, {`[\W]`, "escape"}, {`[a`, "missing closing"}, {`(a`, "missing closing"}, {`a)`, "unexpected )"}, {`a*`, "matches nothing"}, {`a|`, "matches nothing"},
		{`\p{Klingon}`, "Klingon"}, {`\s+(?!\s)`, "group"}, {`a|(?!\S)`, "matches nothing"}, {`a{1001}`, "repeat"}, {`a{,2}b`, "{,2}"},
		{strings.Repeat("a", maxPattern+1), "at most"}, {"((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9})", "repeat"},
	} {
		if _, err := findRegex(c.pattern); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: got %v, want an error about %s", c.pattern, err, c.want)
		}
	}
	// A look-ahead that nothing comes after leaves lone spaces between matches.
	find, err := findRegex(`[a\_\é]|\s+(?!\S)|\u0062\x63\ `)
	if err != nil {
		t.Fatal(err)
	}
	next, err := splitBy(find, "Isolated", false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var m memo
	for s := "a  _ é \n\u00a0bc bcx  "; s != ""; {
		n := next(s, &m)
		got, s = append(got, s[:n]), s[n:]
	}
	if want := []string{"a", " ", " ", "_", " ", "é", " \n", "\u00a0", "bc ", "bcx", "  "}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPostProcessors(t *testing.T) {
	for _, kind := range []string{"Bert", "Roberta"} {
		tok := load(t, []byte(strings.Replace(smallTokenizer, `"post_processor":null`, `"post_processor":{"type":"`+kind+`Processing","sep":["b",1],"cls":["<s>",4]}`, 1)))
		if got := prompt(tok, "ab"); !slices.Equal(got, []int32{4, 2, 1}) {
			t.Errorf("%s: got %d", kind, got)
		}
	}
	// Sequences in sequences.
	s := strings.Replace(smallTokenizer, `"post_processor":null`, `"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"Sequence","processors":[
		{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[4]}}}]}]}`, 1)
	s = strings.Replace(s, `{"type":"NFC"}`, `{"type":"Sequence","normalizers":[{"type":"Sequence","normalizers":[{"type":"Lowercase"},{"type":"Sequence","normalizers":[]}]}]}`, 1)
	if got := prompt(load(t, []byte(s)), "AB"); !slices.Equal(got, []int32{4, 2}) {
		t.Errorf("nested: got %d", got)
	}
}

func FuzzLoadTokenizer(f *testing.F) {
	f.Add([]byte(smallTokenizer), "ab <s>b'sa")
	f.Add([]byte(strings.Replace(smallTokenizer, `"ByteLevel","add_prefix_space":false`, `"Split","pattern":{"Regex":"[\\s\\S]"},"behavior":"Isolated"`, 1)), "ab\xff")
	f.Add([]byte(strings.Replace(smallTokenizer, `{"type":"NFC"}`, `{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"b"},{"type":"Replace","pattern":{"String":"a"},"content":""}]}`, 1)), "aaab")
	f.Add([]byte(strings.Replace(smallTokenizer, `"ByteLevel","add_prefix_space":false`, `"Split","pattern":{"Regex":"[^\\sa]+|\\s+(?!\\S)|b"},"behavior":"MergedWithNext"`, 1)), "ab  bc\n")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		tok, err := LoadTokenizer(b)
		if err != nil {
			return
		}
		ids := prompt(tok, text)
		for _, id := range ids {
			if id < 0 || int(id) >= tok.VocabSize() {
				t.Fatalf("token %d of a vocabulary of %d", id, tok.VocabSize())
			}
		}
		tok.Decode(ids)
	})
}

// Splits must never stall, whatever the text.
func FuzzSplit(f *testing.F) {
	f.Add("it's  a\n\n test'ſ 123 ½…\u00a0x")
	f.Fuzz(func(t *testing.T, s string) {
		for name, split := range splits {
			for rest := s; len(rest) > 0; {
				n := split(rest)
				if n < 1 || n > len(rest) {
					t.Fatalf("%s: piece of %d bytes of %q", name, n, rest)
				}
				rest = rest[n:]
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	text := string(shared(b, "data/text/tinyshakespeare.txt"))
	for name, file := range map[string]string{"gpt2": "data/tokenizers/gpt2/tokenizer.json", "qwen3": "data/tokenizers/qwen3/tokenizer.json", "stories512": "data/models/stories260K-hf/tokenizer.json"} {
		b.Run(name, func(b *testing.B) {
			tok := load(b, shared(b, file))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tok.Encode(text)
			}
		})
	}
	b.Run("char", func(b *testing.B) {
		tok, err := NewChar(text)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			tok.Encode(text)
		}
	})
}
