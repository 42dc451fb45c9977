package sim

import (
	"encoding/binary"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// train begins an inner phase, goes on with one, or resumes one from the disk.
func (p *peer) train(e diloco.Train) {
	w := p.w
	ph := &p.phase
	if ph.train.Round == e.Round && ph.train.State == e.State && ph.ends > w.now && !ph.cut {
		ph.train = e
	} else {
		d := time.Duration(float64(w.cfg.Train) / p.speed * (0.95 + 0.1*w.rng.Float64()))
		if p.slow > 0 {
			d = time.Duration(float64(d) * p.slow)
		}
		*ph = phase{train: e, began: w.now, ends: w.now + d, live: ph.live + 1}
	}
	p.endPhase(ph.ends - w.now)
}

func (p *peer) endPhase(d time.Duration) {
	live := p.phase.live
	p.w.after(d, p, func() {
		ph := &p.phase
		if ph.live == live && ph.train.Head.Defined() && p.w.now >= ph.ends {
			p.trained()
		}
	})
}

func (p *peer) cut(e diloco.Cut) {
	ph := &p.phase
	if ph.train.Head != e.Head || ph.cut {
		return
	}
	ph.cut = true
	ph.live++
	whole := ph.ends - ph.began
	d := min(whole/stepsPerRound+50*time.Millisecond, max(ph.ends-p.w.now, 0))
	ph.ends = p.w.now + d
	p.endPhase(d)
}

// trained answers Train.
func (p *peer) trained() {
	w := p.w
	t := p.phase.train
	steps := uint64(stepsPerRound)
	if p.phase.cut {
		steps = uint64(min(stepsPerRound, max(1, (w.now-p.phase.began)*stepsPerRound/max(w.cfg.Train, 1))))
	}
	p.phase = phase{live: p.phase.live + 1}
	b := append([]byte(t.Head+t.State), p.id[:]...)
	block := wire.SumCID(wire.CodecRaw, binary.BigEndian.AppendUint64(b, steps))
	p.blocks[block] = true
	d := diloco.Delta{
		Parent: t.Head, Round: t.Round, State: t.State, Block: block, Bytes: 1000, Steps: steps, Tokens: steps * 640, Loss: 3,
	}
	if w.cfg.AuditRate > 0 {
		d.Trace = wire.SumCID(wire.CodecDagCBOR, []byte(block))
		p.traces[block] = t.Round
		p.fake(block, steps)
	}
	if w.cfg.Ledger != nil {
		d.Epoch, d.Receipt = w.cfg.Ledger.Sign(p.n, wire.KindDelta, block, d.Tokens, w.now)
	}
	p.step(diloco.Trained{Delta: d})
}
