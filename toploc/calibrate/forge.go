package calibrate

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/shoalnet/shoal/toploc"
)

// A forgery is somebody's submission for every sequence: version 1 records, one a
// chunk, and the rows of which the version 2 records are made.
type forgery struct {
	name    string
	records func(seq int) [][]byte
	rows    func(seq int) []uint16
}

// chunks are what a sequence's rows are proved in.
func (m *measurement) chunks(seq int) []toploc.Chunk {
	return m.c.Params.Chunks(m.prompts[seq], m.c.Tokens)
}

// prove makes the records of a sequence's rows.
func (m *measurement) prove(a []uint16, prompt int) [][]byte {
	pfs, err := toploc.Build(m.c.Params, a, prompt)
	if err != nil {
		return nil // the check of Config excludes it; no record passes
	}
	var out [][]byte
	for _, pf := range pfs {
		out = append(out, pf.AppendBinary(nil))
	}
	return out
}

// forgeries lists those that need no inference at all, then those with rows of
// their own.
func (m *measurement) forgeries() []forgery {
	zeros := func(seq int) []uint16 { return make([]uint16, len(m.own[seq])) }
	typical := m.typical()
	each := func(one func(seq, chunk int) []byte) func(seq int) [][]byte {
		return func(seq int) (out [][]byte) {
			for j := range m.chunks(seq) {
				out = append(out, one(seq, j))
			}
			return out
		}
	}
	k := m.c.Params.TopK
	templates := [2]template{m.template(0), m.template(1)}
	other := func(seq int) int { return (seq + len(m.own)/2) % len(m.own) }
	honest := func(seq int) [][]byte { return m.prove(m.own[seq], m.prompts[seq]) }
	list := []forgery{
		{"constant polynomial", each(func(seq, _ int) []byte {
			pf := &toploc.Proof{Modulus: toploc.Prime, Coeffs: make([]uint16, k)}
			pf.Coeffs[0] = typical[seq%2]
			return pf.AppendBinary(nil)
		}), zeros},
		{"modulus 1", each(func(seq, j int) []byte {
			pf := &toploc.Proof{Modulus: 1, Coeffs: noise(k, uint64(seq)<<16|uint64(j))}
			pf.Coeffs[0] = typical[seq%2]
			return pf.AppendBinary(nil)
		}), zeros},
		{"random record", each(func(seq, j int) []byte {
			return (&toploc.Proof{Modulus: toploc.Prime, Coeffs: noise(k, uint64(seq)<<16|uint64(j))}).AppendBinary(nil)
		}), func(seq int) []uint16 { return noise(len(m.own[seq]), uint64(seq)) }},
		{"null proof", each(func(_, _ int) []byte { return make([]byte, toploc.RecordSize(k)) }), zeros},
		{"template of the model", func(seq int) (out [][]byte) {
			t := &templates[seq%2]
			for _, c := range m.chunks(seq) {
				out = append(out, t.record(m, c))
			}
			return out
		}, func(seq int) []uint16 { return slices.Repeat(templates[seq%2].row, len(m.own[seq])/m.c.Params.Hidden) }},
		{"replay of another text", func(seq int) [][]byte { return honest(other(seq)) },
			func(seq int) []uint16 { return stretch(m.own[other(seq)], len(m.own[seq])) }},
		{"all signs flipped", func(seq int) [][]byte { return m.prove(flipped(m.own[seq]), m.prompts[seq]) },
			func(seq int) []uint16 { return flipped(m.own[seq]) }},
		{"one proof too few", func(seq int) [][]byte { r := honest(seq); return r[:len(r)-1] }, nil},
		{"one proof too many", func(seq int) [][]byte { r := honest(seq); return append(r, r[len(r)-1]) }, nil},
		{"proofs in another order", func(seq int) [][]byte { r := honest(seq); return append(r[1:], r[0]) }, nil},
	}
	for _, f := range m.forged {
		list = append(list, forgery{f.name, func(seq int) [][]byte { return m.prove(f.rows[seq], m.prompts[seq]) },
			func(seq int) []uint16 { return f.rows[seq] }})
	}
	return list
}

// noise is n elements of the field, or activations of any kind.
func noise(n int, seed uint64) []uint16 {
	r := rand.New(rand.NewPCG(seed, 77))
	a := make([]uint16, n)
	for i := range a {
		a[i] = uint16(r.IntN(2))<<15 | uint16(r.IntN(0x7f80))
		a[i] = min(a[i], toploc.Prime-1)
	}
	return a
}

func flipped(a []uint16) []uint16 {
	b := slices.Clone(a)
	for i := range b {
		b[i] ^= 0x8000
	}
	return b
}

// stretch cuts a to n elements or repeats it.
func stretch(a []uint16, n int) []uint16 {
	for len(a) < n {
		a = append(a[:len(a):len(a)], a...)
	}
	return a[:n]
}

// typical gives, of the odd and of the even sequences, the most usual exponent of
// the top-k with the middle of its mantissas: what a constant polynomial should be
// for the others. Signs are even; the constant's is plus.
func (m *measurement) typical() (out [2]uint16) {
	for half := range out {
		var count [256]int
		var mantissas [256][]uint16
		for seq := 1 - half; seq < len(m.own); seq += 2 {
			m.tops(seq, func(t *toploc.Top) {
				for _, b := range t.Bits {
					e := b >> 7 & 0xff
					count[e]++
					mantissas[e] = append(mantissas[e], b&0x7f)
				}
			})
		}
		e := 0
		for i, n := range count {
			if n > count[e] {
				e = i
			}
		}
		slices.Sort(mantissas[e])
		out[half] = uint16(e)<<7 | mantissas[e][len(mantissas[e])/2]
	}
	return out
}

// tops finds the top of each chunk of the verifier's rows.
func (m *measurement) tops(seq int, see func(*toploc.Top)) {
	s, err := toploc.NewSelector(m.c.Params, m.prompts[seq])
	if err != nil {
		return
	}
	d := m.c.Params.Hidden
	for a := m.own[seq]; len(a) > 0; a = a[d:] {
		if t, err := s.Push(a[:d]); err == nil && t != nil {
			see(t)
		}
	}
}

// A template is what somebody knows of a model who has seen many honest proofs:
// where its largest activations are and what they hold.
type template struct {
	row []uint16 // mean row
	// at lists positions, in chunks of decoding and of prompts, by how often they
	// are in the top-k, with the bits usual there.
	decode, prefill []spot
}

type spot struct {
	pos  uint32
	n    int
	bits uint16
}

// template learns from the sequences of the other half.
func (m *measurement) template(half int) template {
	type seen struct{ bits []uint16 }
	at := [2]map[uint32]*seen{{}, {}}
	mean := make([]float64, m.c.Params.Hidden)
	rows := 0
	for seq := 1 - half; seq < len(m.own); seq += 2 {
		m.tops(seq, func(t *toploc.Top) {
			kind := at[0]
			if t.Prefill {
				kind = at[1]
			}
			for i, p := range t.Pos {
				if kind[p] == nil {
					kind[p] = new(seen)
				}
				kind[p].bits = append(kind[p].bits, t.Bits[i])
			}
		})
		for i, b := range m.own[seq] {
			mean[i%len(mean)] += float64(value(b))
		}
		rows += len(m.own[seq]) / len(mean)
	}
	t := template{row: make([]uint16, len(mean))}
	for c, v := range mean {
		toploc.RoundBF16(t.row[c:], []float32{float32(v / float64(rows))})
	}
	for kind, dst := range []*[]spot{&t.decode, &t.prefill} {
		for p, s := range at[kind] {
			// The usual sign, with the median magnitude among it.
			var signs [2][]uint16
			for _, b := range s.bits {
				signs[b>>15] = append(signs[b>>15], b)
			}
			usual := signs[0]
			if len(signs[1]) > len(usual) {
				usual = signs[1]
			}
			slices.Sort(usual)
			*dst = append(*dst, spot{p, len(usual), usual[len(usual)/2]})
		}
		slices.SortFunc(*dst, func(a, b spot) int { return cmp.Or(b.n-a.n, cmp.Compare(a.pos, b.pos)) })
	}
	return t
}

func value(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// record interpolates the template's most usual positions for a chunk.
func (t *template) record(m *measurement, c toploc.Chunk) []byte {
	spots := t.decode
	if c.Prefill {
		spots = t.prefill
	}
	size := uint32(c.Tokens * m.c.Params.Hidden)
	top := &toploc.Top{}
	taken := map[uint32]bool{}
	for _, s := range spots {
		if s.pos < size && len(top.Pos) < m.c.Params.TopK {
			top.Pos, top.Bits = append(top.Pos, s.pos), append(top.Bits, s.bits)
			taken[s.pos] = true
		}
	}
	for p := uint32(0); len(top.Pos) < m.c.Params.TopK; p++ { // too few were seen
		if !taken[p] {
			top.Pos, top.Bits = append(top.Pos, p), append(top.Bits, t.row[int(p)%len(t.row)])
		}
	}
	pf, err := top.Prove()
	if err != nil {
		return nil
	}
	return pf.AppendBinary(nil)
}
