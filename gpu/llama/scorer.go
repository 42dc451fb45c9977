package llama

import (
	"context"
	"fmt"

	"github.com/shoalnet/shoal/gpu"
)

// passWork is about how many multiply-adds a pass over a long text makes: some tenths of a
// second on one core, so that whoever waits for its end need not wait long.
const passWork = 1 << 33

// passRows is how many of n tokens a pass reads at most.
func (m *Model) passRows(n int) int {
	const few = 32 // with fewer rows it is the weights' way from memory that takes the time
	return min(n, max(few, min(256, int(passWork/m.cfg.NumParams()))))
}

// atOnce is how many tokens Loss reads instead, at most: in one pass, whose rows threads share better.
func (m *Model) atOnce() int {
	if m.packed != nil {
		return 0
	}
	return int(min(1024, passWork/8/m.cfg.NumParams()))
}

// A Scorer computes losses of long documents, a stretch at a time: what it keeps
// besides the weights are keys and values, and it ends within a pass of being asked to.
// Its losses are those of Model.Loss. It is for one goroutine.
type Scorer struct {
	d       *decoder
	pages   []int32
	once    int        // tokens that Loss reads
	loss    gpu.Buffer // (want)
	targets []int32
	want    []int
}

// NewScorer makes a scorer of documents of up to longest tokens.
func (m *Model) NewScorer(longest int) (*Scorer, error) {
	if longest < 2 || longest > m.cfg.Context()+1 {
		return nil, fmt.Errorf("llama: score: %d tokens, want 2 to %d", longest, m.cfg.Context()+1)
	}
	s := m.newScorer(longest)
	m.tables(longest, longest-1)
	return s, nil
}

func (m *Model) newScorer(longest int) *Scorer {
	rows := m.passRows(longest - 1)
	some := min(rows, max(16, 1<<22/m.cfg.VocabSize))
	n := pages(longest - 1)
	return &Scorer{once: m.atOnce(), d: m.newDecoder(rows, n, some, false), pages: sequential(n), loss: m.dev.Alloc(some),
		targets: make([]int32, some), want: make([]int, some)}
}

// Score returns the mean cross-entropy, in nats per token, of tokens[1:] given what
// precedes each. After each pass it calls told, which may be nil, with how many of them
// are done.
func (s *Scorer) Score(ctx context.Context, tokens []int32, told func(done int)) (float64, error) {
	m, d, n := s.d.m, s.d, len(tokens)-1
	if n < 1 || pages(n) > len(s.pages) {
		return 0, fmt.Errorf("llama: score: %d tokens, the scorer takes 2 to %d", len(tokens), len(s.pages)*gpu.PageSize+1)
	}
	if err := m.checkIDs(tokens); err != nil {
		return 0, fmt.Errorf("llama: score: %w", err)
	}
	if n <= s.once {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		loss, err := m.Loss(tokens)
		if err == nil && told != nil {
			told(n)
		}
		return loss, err
	}
	var sum float64
	for at := 0; at < n; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		rows := min(n-at, d.rows)
		d.pass([]gpu.Span{{Rows: rows, Start: at, Pages: s.pages[:pages(at+rows)]}}, []int{len(tokens)}, tokens[at:at+rows])
		for i := 0; i < rows; i += len(s.want) {
			k := min(len(s.want), rows-i)
			for j := range k {
				s.want[j], s.targets[j] = i+j, tokens[at+i+j+1]
			}
			m.dev.CrossEntropy(s.loss.Slice(0, k), d.score(s.want[:k]), s.targets[:k], 0)
			sum += m.dev.Sum(s.loss.Slice(0, k))
		}
		if err := m.dev.Sync(); err != nil {
			return 0, fmt.Errorf("llama: score: %w", err)
		}
		if at += rows; told != nil {
			told(at)
		}
	}
	return sum / float64(n), nil
}
