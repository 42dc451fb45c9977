package hf

import (
	"math"
	"unicode/utf8"
)

// bpe is the merging model of a tokenizer.
type bpe struct {
	whole    map[string]int32 // pieces that are one token whatever the merges say; nil unless ignore_merges
	bytes    *[256]int32      // byte-level: the token of each byte, -1 if none
	chars    map[rune]int32   // otherwise: the tokens of single characters
	fallback *[256]int32      // the tokens <0x00> to <0xFF>, -1 if none; nil without byte_fallback
	unknown  int32            // -1 if none
	fuse     bool             // a run of unknown characters is one token
	merges   map[uint64]merge // by pair
	meets    *bitmap          // see cuts; nil where not known
}

// A merge joins two adjacent tokens; the lowest rank goes first.
type merge struct{ rank, id int32 }

func pair(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

// encode appends the tokens of one piece; w may end it early.
func (m *bpe) encode(out []int32, piece string, w *watch) []int32 {
	if id, ok := m.whole[piece]; ok {
		w.pass(len(piece))
		return append(out, id)
	}
	start, pending := len(out), false
	told := 0 // bytes: of a long piece half each is done here and by merging
	if m.bytes != nil {
		for i := range len(piece) {
			if i%watchEvery == watchEvery-1 {
				if told += watchEvery / 2; !w.pass(watchEvery / 2) {
					return out
				}
			}
			out, pending = m.symbol(out, m.bytes[piece[i]], pending)
		}
	} else {
		for i, r := range piece {
			if i/2-told >= watchEvery/2 {
				if told += watchEvery / 2; !w.pass(watchEvery / 2) {
					return out
				}
			}
			id, ok := m.chars[r]
			if !ok {
				id = -1
				if n := utf8.RuneLen(r); m.spells(piece[i : i+n]) {
					for k := range n {
						out = append(out, m.fallback[piece[i+k]])
					}
					continue
				}
			}
			out, pending = m.symbol(out, id, pending)
		}
	}
	if pending {
		out = append(out, m.unknown)
	}
	n := m.merge(out[start:], len(piece)-told, w)
	return out[:start+n]
}

// symbol appends id, which is -1 where the vocabulary has none. An unknown token
// is pending until the next known one, so that those to be fused with it do not
// count. As in Hugging Face's library, what falls back to bytes overtakes it.
func (m *bpe) symbol(out []int32, id int32, pending bool) ([]int32, bool) {
	if id < 0 {
		if pending && !m.fuse {
			out = append(out, m.unknown)
		}
		return out, m.unknown >= 0
	}
	if pending {
		out = append(out, m.unknown)
	}
	return append(out, id), false
}

// spells says whether there is a token for every byte of s.
func (m *bpe) spells(s string) bool {
	if m.fallback == nil {
		return false
	}
	for i := range len(s) {
		if m.fallback[s[i]] < 0 {
			return false
		}
	}
	return true
}

// merge merges s, made of so many bytes, in place and returns its new length.
func (m *bpe) merge(s []int32, bytes int, w *watch) int {
	if len(s) <= short {
		w.pass(bytes)
		return m.mergeShort(s)
	}
	// Where nothing can be merged across, what is on either side can be merged by itself.
	n := 0
	for from := 0; from < len(s); {
		to := from + 1
		for to < len(s) && m.meet(s[to-1], s[to]) {
			to++
		}
		part := s[from:to]
		if len(part) <= short {
			part = part[:m.mergeShort(part)]
		} else {
			part = part[:m.mergeLong(part, w)]
		}
		n += copy(s[n:], part)
		if !w.pass(int(int64(bytes) * int64(to-from) / int64(len(s)))) {
			return n
		}
		from = to
	}
	return n
}

const short = 64 // tokens, up to which a look at all pairs is the faster way to merge

// A bitmap is a set of pairs that may have more members than were put in.
type bitmap [1 << 14]uint64

func bit(a, b int32) (word, mask uint64) {
	h := pair(a, b) * 0x9e3779b97f4a7c15 >> (64 - 20)
	return h >> 6, 1 << (h & 63)
}

func (m *bpe) meet(a, b int32) bool {
	if m.meets == nil {
		return true
	}
	word, mask := bit(a, b)
	return m.meets[word]&mask != 0
}

// cuts finds which symbols can be the last of one token and the first of another that
// are merged: two others that stand side by side are never in one token.
func (m *bpe) cuts(merges [][]string, vocab map[string]int) {
	symbol := func(r rune) int32 {
		if m.bytes == nil {
			if id, ok := m.chars[r]; ok {
				return id
			}
		} else if b, ok := fromAlphabet[r]; ok {
			return m.bytes[b]
		}
		return -1
	}
	odd := map[int32]bool{} // symbols that are no character
	if m.unknown >= 0 {
		odd[m.unknown] = true
	}
	if m.fallback != nil {
		for _, id := range m.fallback {
			odd[id] = true
		}
	}
	meets := new(bitmap)
	for _, p := range merges {
		x, y := int32(vocab[p[0]]), int32(vocab[p[1]])
		if odd[x] || odd[y] || odd[int32(vocab[p[0]+p[1]])] {
			return
		}
		l, _ := utf8.DecodeLastRuneInString(p[0])
		r, _ := utf8.DecodeRuneInString(p[1])
		word, mask := bit(symbol(l), symbol(r))
		meets[word] |= mask
	}
	m.meets = meets
}

// mergeShort looks over all pairs for each merge: quadratic, but the fastest
// for a word, and the definition for mergeLong.
func (m *bpe) mergeShort(w []int32) int {
	for len(w) > 1 && len(m.merges) > 0 {
		at, best := -1, merge{rank: math.MaxInt32}
		for i := range len(w) - 1 {
			if g, ok := m.merges[pair(w[i], w[i+1])]; ok && g.rank < best.rank {
				at, best = i, g
			}
		}
		if at < 0 {
			break
		}
		w[at] = best.id
		w = append(w[:at+1], w[at+2:]...)
	}
	return len(w)
}

// A candidate is a pair that could be merged when it was pushed.
type candidate struct {
	rank, at    int32
	left, right int32 // the tokens then: a candidate is stale if they have changed
}

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.at < d.at
}

// candidates are a binary heap: container/heap would box each, at 0.7 of
// the speed.
type candidates []candidate

func (q *candidates) push(c candidate) {
	h := append(*q, c)
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h[i].before(h[up]) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
	*q = h
}

func (q *candidates) pop() candidate {
	h := *q
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		k := 2*i + 1
		if k+1 < last && h[k+1].before(h[k]) {
			k++
		}
		if k >= last || !h[k].before(h[i]) {
			break
		}
		h[i], h[k] = h[k], h[i]
		i = k
	}
	*q = h
	return top
}

// mergeLong does what mergeShort does in n log n: tokenizers without a split
// pattern hand over a whole text as one piece.
func (m *bpe) mergeLong(w []int32, asks *watch) int {
	n := int32(len(w))
	next, prev := make([]int32, n), make([]int32, n)
	queue := make(candidates, 0, n)
	look := func(at int32) (candidate, bool) {
		if at < 0 || next[at] == n {
			return candidate{}, false
		}
		l, r := w[at], w[next[at]]
		g, ok := m.merges[pair(l, r)]
		return candidate{g.rank, at, l, r}, ok
	}
	for i := range n {
		next[i], prev[i] = i+1, i-1
	}
	for i := range n {
		if i%watchEvery == watchEvery-1 && !asks.ask() {
			return len(w)
		}
		if c, ok := look(i); ok {
			queue.push(c)
		}
	}
	const gone = -1
	for popped := 0; len(queue) > 0; popped++ {
		if popped%watchEvery == 0 && !asks.ask() {
			break
		}
		c := queue.pop()
		at := c.at
		if w[at] != c.left || next[at] == n || w[next[at]] != c.right {
			continue
		}
		dead := next[at]
		w[at] = m.merges[pair(c.left, c.right)].id
		w[dead] = gone
		next[at] = next[dead]
		if next[at] < n {
			prev[next[at]] = at
		}
		for _, i := range [2]int32{prev[at], at} {
			if c, ok := look(i); ok {
				queue.push(c)
			}
		}
	}
	k := 0
	for i := int32(0); i < n; i = next[i] {
		w[k] = w[i]
		k++
	}
	return k
}
