package node

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/toploc/audit"
)

// What makes a delta look odd among those of its round. It never touches the
// merge and convicts nobody: it says what to replay beyond what the coin chose.
const (
	oddCosine = 0.98 // between two payloads: batches that have nothing in common lead less alike
	oddNorm   = 4.0  // times, or one over, the median norm
	maxScreen = 32   // deltas compared in a round
	minScreen = 3    // fewer have no median

	screenWork = 100_000_000 // values multiplied in one screen, about
)

// likeness is what a screen measures of the payloads of one round.
type likeness struct {
	norm []float64
	cos  [][]float64
}

// compare measures payloads chunk by chunk, so that memory does not grow with the model.
func compare(ds []*codec.Delta) likeness {
	n := len(ds)
	l := likeness{norm: make([]float64, n), cos: make([][]float64, n)}
	dot := make([][]float64, n)
	for i := range dot {
		dot[i], l.cos[i] = make([]float64, n), make([]float64, n)
	}
	if n == 0 {
		return l
	}
	acc := make([][]int64, n)
	for i := range acc {
		acc[i] = make([]int64, codec.MaxChunk)
	}
	c := ds[0].Codec()
	// Of large models a sample of the chunks tells as much.
	stride := max(1, c.Params()*n*n/2/screenWork)
	for k := 0; k < c.Chunks(); k += stride {
		from, to := c.Chunk(k)
		for i, d := range ds {
			clear(acc[i][:to-from])
			d.Accumulate(k, 1, acc[i])
		}
		for i := range ds {
			for j := i; j < n; j++ {
				s, b := 0.0, acc[j][:to-from]
				for x, v := range acc[i][:to-from] {
					s += float64(v) * float64(b[x])
				}
				dot[i][j] += s
			}
		}
	}
	for i := range ds {
		l.norm[i] = math.Sqrt(dot[i][i])
	}
	for i := range ds {
		for j := i + 1; j < n; j++ {
			if m := l.norm[i] * l.norm[j]; m > 0 {
				l.cos[i][j] = dot[i][j] / m
				l.cos[j][i] = l.cos[i][j]
			}
		}
	}
	return l
}

// odd says why the i-th delta is suspect, "" where it is not.
func (l likeness) odd(i int) string {
	for j, c := range l.cos[i] {
		if j != i && math.Abs(c) >= oddCosine {
			return fmt.Sprintf("its direction is that of another delta (cosine %.4f)", c)
		}
	}
	others := make([]float64, 0, len(l.norm))
	for j, n := range l.norm {
		if j != i {
			others = append(others, n)
		}
	}
	if len(others)+1 < minScreen {
		return ""
	}
	m := median(others)
	if m > 0 && (l.norm[i] > oddNorm*m || l.norm[i] < m/oddNorm) {
		return fmt.Sprintf("its norm is %.3g times the median", l.norm[i]/m)
	}
	return ""
}

// screen looks at the deltas of one commit together.
func (a *auditor) screen(ctx context.Context, c *diloco.Commit) {
	merged := c.Merged()
	if len(merged) < 2 || len(merged) > maxScreen {
		return
	}
	var ds []*codec.Delta
	var who []*diloco.Message
	for _, w := range merged {
		m := a.known[w.ID]
		if m == nil {
			continue
		}
		d, err := localPayload(ctx, a.blocks, a.replayer.model.Codec, w.Block, codec.Header{Run: a.run, Parent: w.Parent, Peer: w.Peer})
		if err != nil {
			a.log.Debug("screen a payload", "peer", w.Peer, "err", err)
			continue
		}
		ds, who = append(ds, d), append(who, m)
	}
	l := compare(ds)
	for i, m := range who {
		why := l.odd(i)
		if why == "" || m.From == a.self {
			continue
		}
		// The last segment: there the payload must follow from what was trained.
		a.suspect(m, audit.Segments(m.Body.(*diloco.Delta).Steps, a.every)-1, "looked odd", why)
	}
}

// suspect asks for an audit beyond the coin's, and shows it.
func (a *auditor) suspect(m *diloco.Message, segment uint64, what, why string) {
	s := Suspicion{Peer: m.From, Round: m.Body.(*diloco.Delta).Round, Segment: segment, Why: why}
	a.log.Info("a delta "+what, "peer", s.Peer, "round", s.Round, "why", why)
	a.meter.suspect(s, what)
	a.choice.Suspect(workOf(m), segment)
}

// median is the upper one.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
