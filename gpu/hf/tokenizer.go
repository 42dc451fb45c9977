package hf

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Tokenizer turns text into token IDs and back, as Hugging Face's tokenizers
// does with the same tokenizer.json. It is safe for concurrent use.
//
// The stages of Encode are theirs: added tokens are cut out of the text, the
// rest is normalized, split into pieces by a pattern, and each piece is merged
// by byte-pair encoding (Sennrich et al. 2016, algorithm 1).
//
// One difference is known, outside ordinary text: classes of letters, numbers
// and spaces, and normal forms, are those of Go's Unicode version.
type Tokenizer struct {
	json   []byte
	tokens []string // by ID, as tokenizer.json spells them; "" where there is none
	ids    map[string]int32
	added  map[int32]bool // the added tokens: whether special

	cut       matcher // added tokens that are found in the text as it is
	normalize []step
	cutNormal matcher // added tokens that are found in the normalized text

	stages     []stage
	meta       string // what Metaspace puts for a space; "" without
	metaScheme string // always, first or never: whether it puts one before a text
	pattern    string // the known one that a stage splits by, if any
	bytes      bool   // pieces are bytes in GPT-2's alphabet
	bpe        bpe

	before, after []int32 // what the post-processor puts around a text
	decode        []step
	spaced        bool // no decoder: tokens are joined with spaces
}

// VocabSize returns the number of rows that an embedding needs: one above the
// highest token ID, added tokens included.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// JSON returns the tokenizer.json.
func (t *Tokenizer) JSON() []byte { return append([]byte(nil), t.json...) }

// ID returns the ID of a token as tokenizer.json spells it, say "<|endoftext|>".
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// Encode returns the tokens of text without those that the post-processor
// would add. Added tokens within the text are recognized. What the vocabulary
// cannot express becomes its unknown token or, where there is none, nothing; what
// is not UTF-8 is read as U+FFFD, one for each maximal subpart.
func (t *Tokenizer) Encode(text string) []int32 {
	return t.encode(make([]int32, 0, len(text)/3+1), text, nil)
}

// EncodeWhile is Encode of a long text: it asks more every so often, with about how many
// bytes are behind it, and gives up (false) once that says no.
func (t *Tokenizer) EncodeWhile(text string, more func(done int) bool) ([]int32, bool) {
	w := &watch{more: more}
	if !w.pass(0) {
		return nil, false
	}
	out := t.encode(make([]int32, 0, len(text)/3+1), text, w)
	return out, !w.over
}

// A watch asks whether to go on; nil always does.
type watch struct {
	more       func(done int) bool
	done, next int // bytes; of the next question
	over       bool
}

const watchEvery = 1 << 16 // bytes

// pass says that n more bytes are done, and whether to go on.
func (w *watch) pass(n int) bool {
	if w == nil {
		return true
	}
	if w.done += n; w.done >= w.next {
		w.next = w.done + watchEvery
		return w.ask()
	}
	return !w.over
}

// ask asks at once.
func (w *watch) ask() bool {
	if w == nil {
		return true
	}
	w.over = w.over || !w.more(w.done)
	return !w.over
}

// Around returns the tokens that the post-processor puts before a text, such as
// BOS, and after it; nil if none.
func (t *Tokenizer) Around() (before, after []int32) {
	return slices.Clone(t.before), slices.Clone(t.after)
}

func (t *Tokenizer) encode(out []int32, text string, w *watch) []int32 {
	if !utf8.ValidString(text) {
		text = lossy([]byte(text))
	}
	return t.parts(out, text, &t.cut, true, func(out []int32, s string, first bool) []int32 {
		return t.parts(out, t.normalized(s), &t.cutNormal, first, func(out []int32, s string, first bool) []int32 {
			return t.pieces(out, s, first, t.stages, w)
		})
	})
}

func (t *Tokenizer) normalized(s string) string {
	for _, n := range t.normalize {
		s = strings.Join(n([]string{s}), "")
	}
	return s
}

// parts cuts the added tokens that m knows out of s, with the white space that
// belongs to them, and hands what is between to rest; first says that the text
// begins with s, or with what rest is given.
func (t *Tokenizer) parts(out []int32, s string, m *matcher, first bool, rest func(out []int32, s string, first bool) []int32) []int32 {
	done := 0 // of s is dealt with
	for from := 0; from < len(s); {
		at, id, n := m.find(s[from:])
		if n == 0 {
			break
		}
		start, stop := from+at, from+at+n
		from = stop
		if m.edges != nil {
			e := m.edges[id]
			if e.word && (endsInWord(s[:start]) || beginsWithWord(s[stop:])) {
				continue
			}
			if e.left {
				start = max(done, len(strings.TrimRightFunc(s[:start], unicode.IsSpace)))
			}
			if e.right { // what begins in there is found all the same, as by Hugging Face's library
				stop = len(s) - len(strings.TrimLeftFunc(s[stop:], unicode.IsSpace))
			}
		}
		if start > done {
			out = rest(out, s[done:start], first && done == 0)
		}
		out = append(out, id)
		done = stop
	}
	if done < len(s) {
		out = rest(out, s[done:], first && done == 0)
	}
	return out
}

// wordly is \w: letters, marks, digits, connectors and joiners.
func wordly(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.In(r, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic) || r == 0x200c || r == 0x200d
}

func endsInWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && wordly(r)
}

func beginsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && wordly(r)
}

// pieces puts s through stages and encodes what comes of it; first says that
// the text begins with s.
func (t *Tokenizer) pieces(out []int32, s string, first bool, stages []stage, w *watch) []int32 {
	if len(stages) == 0 {
		return t.bpe.encode(out, s, w)
	}
	g := &stages[0]
	if g.change != nil {
		s = g.change(s, first)
	}
	if g.next == nil {
		return t.pieces(out, s, first, stages[1:], w)
	}
	var m memo
	for ; len(s) > 0 && w.pass(0); first = false {
		n := g.next(s, &m)
		if n < 0 {
			s = s[-n:]
			continue
		}
		out = t.pieces(out, s[:n], first, stages[1:], w)
		s = s[n:]
	}
	return out
}

// Decode returns the text of tokens, special tokens included. IDs that are not
// in the vocabulary are skipped, bytes that are not UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int32) string {
	words := make([]string, 0, len(ids))
	for _, id := range ids {
		if id >= 0 && int(id) < len(t.tokens) && t.tokens[id] != "" {
			words = append(words, t.tokens[id])
		}
	}
	if t.spaced {
		return strings.Join(words, " ")
	}
	for _, d := range t.decode {
		words = d(words)
	}
	return strings.Join(words, "")
}

// edges are what an added token asks of the text around it.
type edges struct {
	left, right bool // white space there goes with the token
	word        bool // it is not part of a word
}

// A matcher finds the leftmost, then longest, of a set of strings.
type matcher struct {
	ids     map[string]int32
	edges   map[int32]edges // of the tokens that have any; nil if none
	lengths [256][]int      // by first byte: the lengths that occur, descending
}

// find returns where the first match begins, its ID and length; without one,
// len(s) and zeros.
func (m *matcher) find(s string) (at int, id int32, n int) {
	if len(m.ids) == 0 {
		return len(s), 0, 0
	}
	for i := range len(s) {
		for _, n := range m.lengths[s[i]] {
			if n <= len(s)-i {
				if id, ok := m.ids[s[i:i+n]]; ok {
					return i, id, n
				}
			}
		}
	}
	return len(s), 0, 0
}

func (m *matcher) add(s string, id int32) {
	if m.ids == nil {
		m.ids = map[string]int32{}
	}
	m.ids[s] = id
	l := m.lengths[s[0]]
	i := 0
	for i < len(l) && l[i] > len(s) {
		i++
	}
	if i < len(l) && l[i] == len(s) {
		return
	}
	l = append(l, 0)
	copy(l[i+1:], l[i:])
	l[i] = len(s)
	m.lengths[s[0]] = l
}
