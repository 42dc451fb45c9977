package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/diloco/shard"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A gain is what one delta alone does for the loss, in nats per token: the loss
// before it less that after it, on a batch of the data that its trainer was to train on
// and on a batch of other data, the same for all (LossScore of Lidin et al. 2025,
// arXiv 2505.21684). A single batch is too noisy to pay by, and late in training
// the best delta may have none: it only says whom to audit beyond the coin.
type gain struct {
	own, other float64
	steps      uint64 // of the delta
}

// A screen of gains has at most a quarter of the steps of one inner phase, or minScreen:
// its three forward passes for each delta take as long as one step. What is odd was chosen on
// 40 rounds of five honest trainers of a small model, most of them late in training: 5 % of
// their deltas are, and 86 % of gains about zero in their place.
const (
	gainShare = 4
	gainGap   = 3.0  // times the median deviation of the others
	gainLack  = 0.75 // of what the others gain, on their own data or on other data
)

// mostGains is how many deltas of a round are looked at, where a phase has so many steps.
func mostGains(steps uint64) int {
	return int(min(max(steps/gainShare, minScreen), maxScreen))
}

// outlier says why the i-th gain is not like those of the others, "" where it is:
// below their median by more than they differ, and by most of it; or so far above it on
// its own data alone.
func outlier(gains []gain, i int) string {
	at := gains[i]
	if sum := at.own + at.other; math.IsNaN(sum) || math.IsInf(sum, 0) {
		return "with it the loss is not finite"
	}
	steps := make([]float64, len(gains))
	for j, g := range gains {
		steps[j] = float64(g.steps)
	}
	part := min(float64(at.steps)/median(steps), 1) // a straggler does less, and owns to it
	least := 0.0                                    // no smaller difference is odd
	for k, c := range [...]struct {
		what string
		of   func(gain) float64
	}{
		{"its own data", func(g gain) float64 { return g.own }},
		{"other data", func(g gain) float64 { return g.other }},
		{"its own data beyond other data", func(g gain) float64 { return g.own - g.other }},
	} {
		var others []float64
		for j, g := range gains {
			if x := c.of(g); j != i && !math.IsNaN(x) && !math.IsInf(x, 0) {
				others = append(others, x)
			}
		}
		if len(others)+1 < minScreen {
			return ""
		}
		m := median(others)
		if k < 2 { // the difference of two is no steadier than they are
			least = max(least, gainLack*math.Abs(m))
		}
		for j, x := range others {
			others[j] = math.Abs(x - m)
		}
		dev := median(others)
		want := m
		if m > 0 {
			want *= part
		}
		// Too much on its own data alone is odd, too: that is learnt by heart.
		if x := c.of(at); want-x > max(gainGap*dev, least) || (k == 2 && x-m > max(2*gainGap*dev, least)) {
			return fmt.Sprintf("on %s it gains %.3g nats a token, the others %.3g", c.what, x, m)
		}
	}
	return ""
}

// rank measures the gains of the deltas that a commit merged in time. It is for
// idle moments: a commit that comes meanwhile ends it.
func (a *auditor) rank(ctx context.Context, c *diloco.Commit) error {
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	parent, err := localCommits(ctx, a.blocks)(c.Parent)
	if err != nil {
		return err
	}
	var who []*diloco.Message
	for _, w := range c.Merged() {
		if m := a.known[w.ID]; m != nil && w.Parent == c.Parent && m.Body.(*diloco.Delta).Steps > 0 {
			who = append(who, m)
		}
	}
	if len(who) < minScreen {
		return nil
	}
	// Nobody foresees which data: the secret is of the commit that has the deltas.
	rng := rand.New(rand.NewChaCha8(sha256.Sum256(append([]byte("shoal/audit gains/1"), a.coin.Reveal(c.Round)...))))
	rng.Shuffle(len(who), func(i, j int) { who[i], who[j] = who[j], who[i] })
	who = who[:min(len(who), mostGains(a.replayer.plan.Steps))]

	gains, known, err := a.gains(ctx, parent, who, rng)
	if err != nil {
		return err
	}
	for i, m := range known {
		why := outlier(gains, i)
		if why == "" || m.From == a.self {
			continue
		}
		// Any segment may be the one that was not done, and the last shows what was made of them.
		n := audit.Segments(m.Body.(*diloco.Delta).Steps, a.every)
		a.suspect(m, min(rng.Uint64N(2*n), n-1), "gained oddly", why)
	}
	return nil
}

// gains measures deltas made from the parent's state, those that can be read. It
// has one trainer and two states in memory.
func (a *auditor) gains(ctx context.Context, parent *diloco.Commit, who []*diloco.Message, rng *rand.Rand) (gains []gain, known []*diloco.Message, err error) {
	r := a.replayer
	state, _, err := r.model.Load(ctx, r.blocks, parent.State)
	if err != nil {
		return nil, nil, fmt.Errorf("state of round %d: %w", parent.Round, err)
	}
	t, err := r.engine.NewTrainer(state.Params)
	if err != nil {
		return nil, nil, fmt.Errorf("make a trainer: %w", err)
	}
	defer t.Close()
	r.data.ctx = ctx
	other := make([][]int32, r.data.inner.Batch)
	for i := range other {
		if other[i], err = r.data.train.Window(rng.Uint64N(r.data.train.Windows())); err != nil {
			return nil, nil, err
		}
	}
	before, err := t.Eval(other)
	if err != nil {
		return nil, nil, err
	}
	after := make([]float32, len(state.Params))
	for _, m := range who {
		if a.news() {
			return nil, nil, nil
		}
		d := m.Body.(*diloco.Delta)
		slot, slots := seatIn(parent.Roster, m.From)
		share := shard.Share{Run: r.run, Base: parent.Cursor, Slot: slot, Slots: slots, Each: uint64(r.data.each), Batch: r.data.inner.Batch}
		payload, err := localPayload(ctx, r.blocks, r.model.Codec, d.Block, codec.Header{Run: r.run, Parent: d.Parent, Peer: m.From})
		if err != nil || slot < 0 {
			a.log.Debug("gain of a delta", "peer", m.From, "slot", slot, "err", err)
			continue
		}
		own, err := r.data.train.Batch(share, rng.Uint64N(min(d.Steps, r.plan.Steps)))
		if err != nil {
			return nil, nil, err
		}
		copy(after, state.Params)
		if err := payload.SubtractFrom(after); err != nil {
			return nil, nil, err
		}
		g := gain{steps: d.Steps}
		for _, e := range [...]struct {
			params []float32
			batch  [][]int32
			into   *float64
			sign   float64
		}{{state.Params, own, &g.own, 1}, {after, own, &g.own, -1}, {after, other, &g.other, -1}} {
			loss, err := evalAt(t, e.params, e.batch)
			if errors.Is(err, ErrEngineLost) {
				return nil, nil, err
			} else if err != nil { // nobody's delta keeps the others from being looked at
				a.log.Debug("gain of a delta", "peer", m.From, "err", err)
				loss = math.NaN()
			}
			*e.into += e.sign * loss
		}
		g.other += before
		gains, known = append(gains, g), append(known, m)
	}
	return gains, known, nil
}

func evalAt(t Trainer, params []float32, batch [][]int32) (float64, error) {
	if err := t.SetParams(params); err != nil {
		return 0, err
	}
	return t.Eval(batch)
}

// news reports whether a head waits that was not looked at, or an audit to be done.
func (a *auditor) news() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.heads)+len(a.fetched) > 0
}

// idle does what may be left out.
func (a *auditor) idle(ctx context.Context) {
	c := a.unranked
	a.unranked = nil
	began := time.Now()
	if err := a.rank(ctx, c); err != nil && ctx.Err() == nil {
		a.log.Debug("gains of deltas", "round", c.Round, "err", err)
	}
	a.meter.audited(time.Since(began))
}
