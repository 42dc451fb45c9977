package sim

import (
	"fmt"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// logf writes one line: virtual seconds, peer, what.
func (p *peer) logf(format string, args ...any) {
	if p.w.cfg.Log == nil {
		return
	}
	fmt.Fprintf(p.w.cfg.Log, "%10.3f %3d  %s\n", p.w.now.Seconds(), p.n, fmt.Sprintf(format, args...))
}

// describe writes one effect to the log.
func (p *peer) describe(e diloco.Effect) {
	w := p.w
	if w.cfg.Log == nil {
		return
	}
	switch e := e.(type) {
	case diloco.Sign:
		m, err := diloco.Open(&wire.Signed{Kind: e.Kind, Body: e.Body, From: p.id, Run: w.run})
		if err != nil {
			p.logf("sign %s: %v", e.Kind, err)
			return
		}
		switch b := m.Body.(type) {
		case *diloco.Vote:
			p.logf("sign vote r%d %s deltas %d joins %d verdicts %d evict %d final %d", b.Round, b.Parent.Short(), len(b.Deltas), len(b.Joins), len(b.Verdicts), len(b.Evict), b.FinalRound)
		case *diloco.Verdict:
			p.logf("sign verdict %s on %s of %d r%d/%d, coin %v", [...]string{"pass", "wrong", "withheld"}[b.Finding], b.Subject.Short(), w.index[b.Peer].n, b.Round, b.Segment, len(b.Coin) > 0)
		case *diloco.Attest:
			p.logf("sign attest r%d %s source %d %s", b.Round, b.Head.Short(), b.SourceRound, b.Source.Short())
		case *diloco.Delta:
			p.logf("sign delta r%d %s", b.Round, b.Parent.Short())
		default:
			p.logf("sign %s", e.Kind)
		}
	case diloco.Publish:
		p.logf("publish %s", e.Msg.Kind)
	case diloco.FetchCommit:
		p.logf("fetch commit %s from %d", e.CID.Short(), len(e.From))
	case diloco.FetchState:
		p.logf("fetch state %s", e.State.Short())
	case diloco.FetchDelta:
		p.logf("fetch delta r%d of %d", e.Delta.Round, w.index[e.Peer].n)
	case diloco.Merge:
		p.logf("merge r%d on %s: %d", e.Round, e.Parent.Short(), len(e.Deltas))
	case diloco.Adopt:
		p.logf("adopt r%d %s on %s state %s votes %d deltas %d weak %v roster %d final %d", e.Commit.Round, e.Head.Short(), e.Commit.Parent.Short(), e.Commit.State.Short(), len(e.Commit.Votes), len(e.Commit.Deltas), e.Commit.Weak, len(e.Commit.Roster), e.Commit.FinalRound)
		for _, k := range e.Commit.Cases {
			p.logf("  case %s/%d of %d, opened r%d: pass %d wrong %d withheld %d", k.Subject.Short(), k.Segment, w.index[k.Peer].n, k.Opened, len(k.Pass), len(k.Wrong), len(k.Withheld))
		}
		for _, k := range e.Commit.Convicted {
			p.logf("  convicted %d: %s", w.index[k.Peer].n, k.Why)
		}
	case diloco.Finalized:
		p.logf("final r%d %s", e.Commit.Round, e.CID.Short())
	case diloco.Train:
		p.logf("train r%d %s", e.Round, e.Head.Short())
	case diloco.Cut:
		p.logf("cut %s, late %v", e.Head.Short(), e.Late)
	case diloco.Included:
		p.logf("included %s", e.ID.Short())
	case diloco.Expired:
		p.logf("expired %s", e.ID.Short())
	case diloco.Convicted:
		p.logf("convicted %d of two %ss", w.index[e.Peer].n, e.Evidence.A.Kind)
	case diloco.Done:
		p.logf("done r%d %s", e.Commit.Round, e.CID.Short())
	}
}
