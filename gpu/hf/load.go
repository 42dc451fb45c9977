package hf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a tokenizer.json.
const (
	maxTokenizer = 64 << 20 // bytes
	maxToken     = 8 << 10  // bytes of one token
	maxAdded     = 1 << 15
	maxAddedLen  = 512 // bytes: a text is searched for each length that occurs
	maxMerges    = 1 << 21
	maxSteps     = 32 // normalizers, or decoders
	maxReplace   = 4  // bytes put in by a normalizer or decoder: one character
)

// tokenizerJSON is the part of tokenizer.json that Shoal acts on.
type tokenizerJSON struct {
	AddedTokens   []addedJSON     `json:"added_tokens"`
	Normalizer    *stageJSON      `json:"normalizer"`
	PreTokenizer  *stageJSON      `json:"pre_tokenizer"`
	PostProcessor *stageJSON      `json:"post_processor"`
	Decoder       *stageJSON      `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

type addedJSON struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// stageJSON is the union of the normalizers, pre-tokenizers, post-processors
// and decoders that are known.
type stageJSON struct {
	Type    string `json:"type"`
	Pattern struct {
		String string
		Regex  string
	} `json:"pattern"`
	Content       string      `json:"content"`
	Prepend       string      `json:"prepend"`
	Behavior      string      `json:"behavior"`
	Invert        bool        `json:"invert"`
	AddPrefix     *bool       `json:"add_prefix_space"`
	Individual    bool        `json:"individual_digits"`
	Replacement   string      `json:"replacement"`
	PrependScheme string      `json:"prepend_scheme"`
	SplitWords    *bool       `json:"split"`
	Delimiter     string      `json:"delimiter"`
	Left          bool        `json:"strip_left"`
	Right         bool        `json:"strip_right"`
	UseRegex      *bool       `json:"use_regex"`
	Start         int         `json:"start"`
	Stop          int         `json:"stop"`
	Normalizers   []stageJSON `json:"normalizers"`
	Pretokenizers []stageJSON `json:"pretokenizers"`
	Processors    []stageJSON `json:"processors"`
	Decoders      []stageJSON `json:"decoders"`
	Sep           tokenJSON   `json:"sep"`
	Cls           tokenJSON   `json:"cls"`
	Single        []pieceJSON `json:"single"`
	SpecialTokens map[string]struct {
		IDs []int `json:"ids"`
	} `json:"special_tokens"`
}

// tokenJSON is a token and its ID: ["<s>", 0].
type tokenJSON struct{ id int }

func (t *tokenJSON) UnmarshalJSON(b []byte) error {
	var name string
	pair := []any{&name, &t.id}
	if err := json.Unmarshal(b, &pair); err != nil || len(pair) != 2 {
		return fmt.Errorf("%.40q is not a token and its id", b)
	}
	return nil
}

// pieceJSON is one item of a template: a special token, or the text.
type pieceJSON struct {
	SpecialToken *struct {
		ID string `json:"id"`
	}
	Sequence *struct {
		ID string `json:"id"`
	}
}

type modelJSON struct {
	Type         string         `json:"type"`
	Dropout      *float64       `json:"dropout"`
	UnkToken     *string        `json:"unk_token"`
	Prefix       *string        `json:"continuing_subword_prefix"`
	Suffix       *string        `json:"end_of_word_suffix"`
	FuseUnk      bool           `json:"fuse_unk"`
	ByteFallback bool           `json:"byte_fallback"`
	IgnoreMerges bool           `json:"ignore_merges"`
	Vocab        map[string]int `json:"vocab"`
	Merges       mergesJSON     `json:"merges"`
}

// mergesJSON are the merges, each two tokens: ["a b"], or [["a", "b"]] as newer
// files have it.
type mergesJSON [][]string

func (m *mergesJSON) UnmarshalJSON(b []byte) error {
	if len(b) > 1 && bytes.HasPrefix(bytes.TrimSpace(b[1:]), []byte("[")) {
		if err := Unmarshal(b, (*[][]string)(m)); err != nil {
			return fmt.Errorf("merges: %w", err)
		}
		return nil
	}
	var lines []string
	if err := Unmarshal(b, &lines); err != nil {
		return fmt.Errorf("merges: %w", err)
	}
	*m = make([][]string, len(lines))
	for i, s := range lines {
		(*m)[i] = strings.SplitN(s, " ", 3)
	}
	return nil
}

// LoadTokenizer reads a tokenizer.json with a BPE model. Whatever it holds that
// would change the tokens and is not implemented is an error that names it:
// a wrong tokenizer is worse than none. Truncation and padding are ignored.
func LoadTokenizer(b []byte) (*Tokenizer, error) {
	t, err := loadTokenizer(b)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	return t, nil
}

func loadTokenizer(b []byte) (*Tokenizer, error) {
	if len(b) > maxTokenizer {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(b), maxTokenizer)
	}
	var j tokenizerJSON
	if err := Unmarshal(b, &j); err != nil {
		return nil, err
	}
	var m modelJSON
	if len(j.Model) == 0 {
		return nil, errors.New("model is missing")
	}
	if err := Unmarshal(j.Model, &m); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	t := &Tokenizer{json: bytes.Clone(b)}
	if err := t.loadVocab(&m, j.AddedTokens); err != nil {
		return nil, err
	}
	var err error
	if t.normalize, err = flatten(j.Normalizer, "normalizer", normalizer); err != nil {
		return nil, err
	}
	if err := t.loadPreTokenizer(j.PreTokenizer); err != nil {
		return nil, err
	}
	if err := t.loadModel(&m); err != nil {
		return nil, err
	}
	if err := t.loadPostProcessor(j.PostProcessor); err != nil {
		return nil, err
	}
	t.spaced = j.Decoder == nil
	if t.decode, err = flatten(j.Decoder, "decoder", decoder); err != nil {
		return nil, err
	}
	t.added = make(map[int32]bool, len(j.AddedTokens))
	for _, a := range j.AddedTokens {
		t.added[int32(a.ID)] = a.Special
		m, s := &t.cut, a.Content
		if a.Normalized {
			m, s = &t.cutNormal, t.normalized(s)
		}
		if s == "" {
			continue
		}
		m.add(s, int32(a.ID))
		if e := (edges{a.LStrip, a.RStrip, a.SingleWord}); e != (edges{}) {
			if m.edges == nil {
				m.edges = map[int32]edges{}
			}
			m.edges[int32(a.ID)] = e
		}
	}
	return t, nil
}

// loadVocab fills tokens and ids from the model's vocabulary and the added tokens.
func (t *Tokenizer) loadVocab(m *modelJSON, added []addedJSON) error {
	if len(m.Vocab) == 0 || len(m.Vocab) > MaxVocab || len(added) > maxAdded {
		return fmt.Errorf("model.vocab: %d tokens and %d added ones, want 1 to %d and at most %d", len(m.Vocab), len(added), MaxVocab, maxAdded)
	}
	top := 0
	check := func(s string, id int) error {
		if s == "" || len(s) > maxToken || id < 0 || id >= MaxVocab {
			return fmt.Errorf("token %.40q with id %d is out of bounds", s, id)
		}
		top = max(top, id+1)
		return nil
	}
	for s, id := range m.Vocab {
		if err := check(s, id); err != nil {
			return fmt.Errorf("model.vocab: %w", err)
		}
	}
	for _, a := range added {
		if err := check(a.Content, a.ID); err != nil {
			return fmt.Errorf("added_tokens: %w", err)
		}
		if len(a.Content) > maxAddedLen {
			return fmt.Errorf("added_tokens: %.40q has %d bytes, at most %d", a.Content, len(a.Content), maxAddedLen)
		}
	}
	t.tokens, t.ids = make([]string, top), make(map[string]int32, len(m.Vocab)+len(added))
	for s, id := range m.Vocab {
		if t.tokens[id] != "" {
			return fmt.Errorf("model.vocab: id %d belongs to more than one token", id)
		}
		t.tokens[id], t.ids[s] = s, int32(id)
	}
	for _, a := range added {
		if id, ok := t.ids[a.Content]; ok && int(id) != a.ID || !ok && t.tokens[a.ID] != "" {
			return fmt.Errorf("added_tokens: %.40q: id %d contradicts another token", a.Content, a.ID)
		}
		t.tokens[a.ID], t.ids[a.Content] = a.Content, int32(a.ID)
	}
	return nil
}

// alphabet is GPT-2's: bytes that print stand for themselves, the others for
// the characters from U+0100 on, in order.
var alphabet = func() (a [256]rune) {
	next := rune(256)
	for b := range rune(256) {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			a[b] = b
			continue
		}
		a[b] = next
		next++
	}
	return a
}()

var fromAlphabet = func() map[rune]byte {
	m := make(map[rune]byte, 256)
	for b, r := range alphabet {
		m[r] = byte(b)
	}
	return m
}()

// spell is s in the alphabet of byte-level BPE.
func spell(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(alphabet[s[i]])
	}
	return b.String()
}

// unspell returns the bytes that s spells in the alphabet of byte-level BPE.
func unspell(s string) (string, bool) {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		c, ok := fromAlphabet[r]
		if !ok {
			return "", false
		}
		b = append(b, c)
	}
	return string(b), true
}

func (t *Tokenizer) loadModel(m *modelJSON) error {
	set := func(s *string) bool { return s != nil && *s != "" }
	switch {
	case m.Type != "BPE" && m.Type != "":
		return fmt.Errorf("model: type %.40q is not supported, only BPE", m.Type)
	case m.Dropout != nil && *m.Dropout != 0, set(m.Prefix), set(m.Suffix):
		return errors.New("model: dropout, continuing_subword_prefix and end_of_word_suffix are not supported")
	case len(m.Merges) > maxMerges:
		return fmt.Errorf("model.merges: %d are over the limit of %d", len(m.Merges), maxMerges)
	}
	b := bpe{unknown: -1, fuse: m.FuseUnk, merges: make(map[uint64]merge, len(m.Merges))}
	if set(m.UnkToken) {
		id, ok := t.ids[*m.UnkToken]
		if !ok {
			return fmt.Errorf("model.unk_token: %.40q is not in the vocabulary", *m.UnkToken)
		}
		b.unknown = id
	}
	if t.bytes {
		b.bytes = new([256]int32)
		for i, r := range alphabet {
			b.bytes[i] = -1
			if id, ok := m.Vocab[string(r)]; ok {
				b.bytes[i] = int32(id)
			}
			if m.ByteFallback && b.bytes[i] < 0 {
				return fmt.Errorf("model: byte_fallback with a ByteLevel pre_tokenizer and without a token %q is not supported", r)
			}
		}
	} else {
		b.chars = map[rune]int32{}
		for s, id := range m.Vocab {
			if r, n := utf8.DecodeRuneInString(s); n == len(s) {
				b.chars[r] = int32(id)
			}
		}
	}
	if m.IgnoreMerges {
		b.whole = make(map[string]int32, len(m.Vocab))
		for s, id := range m.Vocab {
			ok := true
			if t.bytes {
				s, ok = unspell(s)
			}
			if ok {
				b.whole[s] = int32(id)
			}
		}
	}
	if m.ByteFallback && !t.bytes { // else there is a token for every byte
		b.fallback = new([256]int32)
		for i := range b.fallback {
			name := fmt.Sprintf("<0x%02X>", i)
			b.fallback[i] = -1
			if id, ok := m.Vocab[name]; ok {
				b.fallback[i] = int32(id)
			}
		}
	}
	for i, p := range m.Merges {
		if len(p) != 2 {
			return fmt.Errorf("model.merges[%d]: %.60q is not two tokens", i, p)
		}
		l, r := p[0], p[1]
		x, okX := m.Vocab[l]
		y, okY := m.Vocab[r]
		z, okZ := m.Vocab[l+r]
		if !okX || !okY || !okZ {
			return fmt.Errorf("model.merges[%d]: %.40q and %.40q or what they make is not in the vocabulary", i, l, r)
		}
		b.merges[pair(int32(x), int32(y))] = merge{int32(i), int32(z)}
	}
	b.cuts(m.Merges, m.Vocab)
	t.bpe = b
	return nil
}

// loadPostProcessor keeps what is put around a single text.
func (t *Tokenizer) loadPostProcessor(j *stageJSON) error {
	if j == nil {
		return nil
	}
	for _, p := range members(j) {
		if p.Type == "ByteLevel" { // it only moves offsets
			continue
		}
		if len(t.before)+len(t.after) > 0 {
			return fmt.Errorf("post_processor: %.40q after another one is not supported", p.Type)
		}
		if err := t.around(&p); err != nil {
			return fmt.Errorf("post_processor: %.40s: %w", p.Type, err)
		}
	}
	return nil
}

func (t *Tokenizer) around(j *stageJSON) error {
	switch j.Type {
	case "BertProcessing", "RobertaProcessing":
		if min(j.Cls.id, j.Sep.id) < 0 || max(j.Cls.id, j.Sep.id) >= len(t.tokens) {
			return fmt.Errorf("cls %d and sep %d are not in the vocabulary", j.Cls.id, j.Sep.id)
		}
		t.before, t.after = []int32{int32(j.Cls.id)}, []int32{int32(j.Sep.id)}
		return nil
	case "TemplateProcessing":
	default:
		return errors.New("it is not supported")
	}
	if len(j.Single) > 64 {
		return fmt.Errorf("%d pieces, at most 64", len(j.Single))
	}
	text := false
	for _, p := range j.Single {
		switch {
		case p.Sequence != nil && p.Sequence.ID == "A" && !text:
			text = true
		case p.SpecialToken != nil:
			ids := j.SpecialTokens[p.SpecialToken.ID].IDs
			if len(ids) == 0 || len(ids) > 64 {
				return fmt.Errorf("special token %.40q has %d ids", p.SpecialToken.ID, len(ids))
			}
			for _, id := range ids {
				if id < 0 || id >= len(t.tokens) {
					return fmt.Errorf("id %d is not in the vocabulary", id)
				}
				if text {
					t.after = append(t.after, int32(id))
				} else {
					t.before = append(t.before, int32(id))
				}
			}
		default:
			return errors.New("the template for one text must hold it once")
		}
	}
	if !text {
		return errors.New("the template for one text must hold it once")
	}
	return nil
}
