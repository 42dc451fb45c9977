package hf

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A stage is one pre-tokenizer: it may change a piece of text, and cuts it.
type stage struct {
	change func(s string, first bool) string // nil: as it is; first: the text begins with s
	next   func(s string, m *memo) int       // the length of the first piece, negative if it is left out; nil: all of s
}

// loadPreTokenizer makes stages of what the file has. A ByteLevel at the end is
// left to the model, which then works on bytes; another one spells them out.
func (t *Tokenizer) loadPreTokenizer(j *stageJSON) error {
	if j == nil {
		return nil
	}
	list := members(j)
	if len(list) > maxSteps {
		return fmt.Errorf("pre_tokenizer: %d stages, at most %d", len(list), maxSteps)
	}
	for i := range list {
		p := &list[i]
		if p.Type == "ByteLevel" {
			t.loadByteLevel(p, i == len(list)-1)
			continue
		}
		s, err := t.preTokenizer(p)
		if err != nil {
			return fmt.Errorf("pre_tokenizer: %s: %w", p.Type, err)
		}
		t.stages = append(t.stages, s...)
	}
	return nil
}

// loadByteLevel reads GPT-2's way: a space before a text that has none, its
// split, and bytes for characters.
func (t *Tokenizer) loadByteLevel(p *stageJSON, last bool) {
	var s stage
	if p.AddPrefix != nil && *p.AddPrefix {
		s.change = func(s string, _ bool) string {
			if s[0] == ' ' {
				return s
			}
			return " " + s
		}
	}
	if p.UseRegex == nil || *p.UseRegex {
		s.next, t.pattern = plain(splitGPT2), patternGPT2
	}
	if s.change != nil || s.next != nil {
		t.stages = append(t.stages, s)
	}
	if t.bytes = last; !last {
		t.stages = append(t.stages, stage{change: func(s string, _ bool) string { return spell(s) }})
	}
}

func (t *Tokenizer) preTokenizer(p *stageJSON) ([]stage, error) {
	by := func(find finder, behavior string, invert bool) ([]stage, error) {
		next, err := splitBy(find, behavior, invert)
		return []stage{{next: next}}, err
	}
	switch p.Type {
	case "Metaspace":
		return t.metaspace(p)
	case "Split":
		if p.Pattern.String != "" {
			return by(findString(p.Pattern.String), p.Behavior, p.Invert)
		}
		covers := p.Behavior == "Isolated" || p.Behavior == "Removed" && p.Invert
		if next := splits[p.Pattern.Regex]; next != nil && covers {
			t.pattern = p.Pattern.Regex
			return []stage{{next: plain(next)}}, nil
		}
		find, err := findRegex(p.Pattern.Regex)
		if err != nil {
			return nil, fmt.Errorf("%.300q: %w", p.Pattern.Regex, err)
		}
		return by(find, p.Behavior, p.Invert)
	case "Digits":
		if p.Individual {
			return by(findRune(unicode.IsNumber), "Isolated", false)
		}
		return by(findRune(unicode.IsNumber), "Contiguous", false)
	case "Punctuation":
		if p.Behavior == "" {
			p.Behavior = "Isolated"
		}
		return by(findRune(punctuation), p.Behavior, false)
	case "Whitespace":
		find, err := findRegex(wordsOrNot)
		if err != nil {
			return nil, err
		}
		return by(find, "Removed", true)
	case "WhitespaceSplit":
		return by(findRune(unicode.IsSpace), "Removed", false)
	case "BertPreTokenizer":
		spaces, err := by(findRune(unicode.IsSpace), "Removed", false)
		if err != nil {
			return nil, err
		}
		marks, err := by(findRune(punctuation), "Isolated", false)
		return append(spaces, marks...), err
	case "CharDelimiterSplit":
		if p.Delimiter == "" {
			return nil, fmt.Errorf("no delimiter")
		}
		return by(findString(p.Delimiter), "Removed", false)
	}
	return nil, fmt.Errorf("it is not supported")
}

// punctuation is what Unicode or ASCII calls so.
func punctuation(r rune) bool {
	return unicode.IsPunct(r) || r < utf8.RuneSelf && unicode.IsSymbol(r)
}

// metaspace reads SentencePiece's way with spaces: they become a character
// that begins the word which follows.
func (t *Tokenizer) metaspace(p *stageJSON) ([]stage, error) {
	if p.Replacement == "" || utf8.RuneCountInString(p.Replacement) != 1 {
		return nil, fmt.Errorf("replacement %.40q is not one character", p.Replacement)
	}
	scheme := p.PrependScheme
	if scheme == "" { // of older files
		scheme = "always"
		if p.AddPrefix != nil && !*p.AddPrefix {
			scheme = "never"
		}
	}
	switch scheme {
	case "always", "first", "never":
	default:
		return nil, fmt.Errorf("prepend_scheme %.40q", scheme)
	}
	t.meta, t.metaScheme = p.Replacement, scheme
	s := stage{change: func(s string, first bool) string {
		s = strings.ReplaceAll(s, " ", p.Replacement)
		if (scheme == "always" || scheme == "first" && first) && !strings.HasPrefix(s, p.Replacement) {
			s = p.Replacement + s
		}
		return s
	}}
	var err error
	if p.SplitWords == nil || *p.SplitWords {
		s.next, err = splitBy(findString(p.Replacement), "MergedWithNext", false)
	}
	return []stage{s}, err
}

func findString(sep string) finder {
	return func(s string, _ *memo) (int, int) {
		if i := strings.Index(s, sep); i >= 0 {
			return i, i + len(sep)
		}
		return len(s), len(s)
	}
}

func findRune(is func(rune) bool) finder {
	return func(s string, _ *memo) (int, int) {
		i := strings.IndexFunc(s, is)
		if i < 0 {
			return len(s), len(s)
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		return i, i + n
	}
}

// plain is a scanner by hand, which needs no memo.
func plain(next func(string) int) func(string, *memo) int {
	return func(s string, _ *memo) int { return next(s) }
}

// splitBy cuts at what find finds, the match becoming what behavior says.
func splitBy(find finder, behavior string, invert bool) (func(string, *memo) int, error) {
	switch {
	case behavior == "Isolated": // a piece of its own
		return func(s string, m *memo) int {
			start, stop := find(s, m)
			if start > 0 {
				return start
			}
			return stop
		}, nil
	case behavior == "Removed": // left out; inverted, what is between is
		return func(s string, m *memo) int {
			start, stop := find(s, m)
			switch {
			case start > 0 && invert:
				return -start
			case start > 0:
				return start
			case invert:
				return stop
			}
			return -stop
		}, nil
	case behavior == "Contiguous": // one piece with those next to it
		return func(s string, m *memo) int {
			start, stop := find(s, m)
			if start > 0 {
				return start
			}
			for stop < len(s) {
				start, n := find(s[stop:], m)
				if start > 0 {
					break
				}
				stop += n
			}
			return stop
		}, nil
	case behavior == "MergedWithPrevious" && !invert:
		return func(s string, m *memo) int { _, stop := find(s, m); return stop }, nil
	case behavior == "MergedWithNext" && !invert:
		return func(s string, m *memo) int {
			start, stop := find(s, m)
			if start > 0 {
				return start
			}
			next, _ := find(s[stop:], m)
			return stop + next
		}, nil
	}
	return nil, fmt.Errorf("behavior %.20q (inverted: %t) is not supported", behavior, invert)
}
