package testnet

import (
	"fmt"
	"html/template"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/shoalnet/shoal/p2p/wire"
)

// A drawing is a figure and how to draw it.
type drawing struct {
	figure
	draw func() (*plot.Plot, error)
	full bool // over both columns, where there are two
}

// auditDrawings tell of audits, cheats and money, where there are any.
func auditDrawings(c *Chronicle) (out []drawing) {
	if c.Lineage == nil || c.Audit.Rate == 0 {
		return nil
	}
	cheats := c.cheats()
	if len(cheats) <= 4 { // the zoo has tables for more
		for _, s := range cheats {
			out = append(out, drawing{figure{Title: "How " + s.Peer + " was caught", Note: storyNote(s), Legend: storyLegend(c, s)},
				func() (*plot.Plot, error) { return story(c, s), nil }, true})
		}
	}
	out = append(out, drawing{figure{Title: "Every contribution, and what audits found", Note: "a box: merged into that round's commit", Legend: boardLegend(cheats)},
		func() (*plot.Plot, error) { return board(c, cheats), nil }, true})
	out = append(out, drawing{figure{Title: "Audits per round", Note: auditNote(c), Legend: auditLegend(c)},
		func() (*plot.Plot, error) { return auditsPerRound(c), nil }, false})
	if c.Money != nil {
		out = append(out, drawing{figure{Title: "Who was paid, and for what", Note: fmt.Sprintf("tokens, of %d epochs that are final", c.Money.Final), Legend: payLegend(c)},
			func() (*plot.Plot, error) { return pay(c), nil }, false})
	}
	return out
}

func storyNote(s CheatSummary) string {
	out := fmt.Sprintf("%s, from round %d on; audited where it lies with probability %.0f %% a round", s.What, s.From, 100*s.Chance)
	if s.Bound > 0 {
		out += fmt.Sprintf(", so convicted by round %d with probability %.1f %%", s.Bound, 100*sure)
	}
	return out
}

func css(n int) template.CSS { return template.CSS(cssSlot(n)) }

func storyLegend(c *Chronicle, s CheatSummary) []key {
	what := "its contributions"
	if p := c.peerOf(s.ID); p != nil && p.Validator {
		what = "its verdicts"
	}
	out := []key{{what + ", honest", "", css(passSlot), "box"}, {"false", fmt.Sprint(s.Lies), css(badSlot), "box"},
		{"an audit passes it", "", css(passSlot), "circle"}, {"an audit finds it wrong", "", css(badSlot), "cross"}, {"accused", "", css(withheldSlot), "box"}}
	if s.Slashed {
		out = append(out, key{"tokens slashed", string(s.SlashedAmount), css(badSlot), "line"})
	}
	return out
}

func boardLegend(cheats []CheatSummary) []key {
	out := []key{{"not audited", "", css(paleSlot), "box"}, {"audited, passed", "", css(passSlot), "box"}}
	if len(cheats) > 0 {
		out = append(out, key{"audited, wrong or withheld", "", css(badSlot), "box"}, key{"false, not audited", "", css(withheldSlot), "box"},
			key{"convicted", "", css(badSlot), "cross"})
	}
	return out
}

func auditNote(c *Chronicle) string {
	return fmt.Sprintf("verdicts in each commit; each validator audits %.0f %% of all contributions and replays 1 of %d segments", float64(c.Audit.Rate)/100, c.Audit.Segments)
}

func auditLegend(c *Chronicle) []key {
	n := map[string]int{}
	for _, l := range c.Lineage.Chain {
		for _, v := range l.Verdicts {
			n[v.Finding]++
		}
	}
	out := []key{{"pass", fmt.Sprint(n[foundPass]), css(passSlot), "box"}, {"wrong", fmt.Sprint(n[foundWrong]), css(badSlot), "box"}}
	if n[foundWithheld] > 0 {
		out = append(out, key{"withheld", fmt.Sprint(n[foundWithheld]), css(withheldSlot), "box"})
	}
	return out
}

func payLegend(c *Chronicle) []key {
	out := []key{{"training", "", css(computeSlot), "box"}, {"validation", "", css(exchangeSlot), "box"}}
	if slices.ContainsFunc(c.Money.Events, func(e LedgerEvent) bool { return e.Name == "Slashed" }) {
		out = append(out, key{"slashed", "", css(badSlot), "box"})
	}
	return out
}

func (c *Chronicle) peerOf(id wire.PeerID) *PeerRecord {
	for _, p := range c.Peers {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// findings are the verdicts about each piece of work, the worst word for each.
func (c *Chronicle) findings() map[wire.CID]string {
	out := map[wire.CID]string{}
	for _, l := range c.Lineage.Chain {
		for _, v := range l.Verdicts {
			if was, ok := out[v.Subject]; !ok || was == foundPass || v.Finding == foundWrong {
				out[v.Subject] = v.Finding
			}
		}
	}
	return out
}

// board draws a row for each trainer and a box for each delta in the chain.
func board(c *Chronicle, cheats []CheatSummary) *plot.Plot {
	p := newPlot()
	var names rowNames
	var cells bars
	var ev marks
	found := c.findings()
	var rows []*PeerRecord
	for _, q := range c.Peers {
		if !q.Validator && !q.Observer {
			rows = append(rows, q)
			names = append(names, q.Name)
		}
	}
	for i, q := range rows {
		y := float64(len(rows) - 1 - i)
		for _, l := range c.Lineage.Chain {
			if l.Round > c.Rounds {
				continue
			}
			for _, d := range l.Deltas {
				if d.Peer != q.ID {
					continue
				}
				colour := paleSlot
				switch found[d.ID] {
				case foundPass:
					colour = passSlot
				case foundWrong, foundWithheld:
					colour = badSlot
				default:
					if q.Cheat != nil && d.Round >= q.Cheat.Round {
						colour = withheldSlot
					}
				}
				cells = append(cells, bar{float64(l.Round) - 0.42, float64(l.Round) + 0.42, y - 0.3, y + 0.3, colour})
			}
		}
		for _, s := range cheats {
			if s.ID == q.ID && s.Caught > 0 {
				ev = append(ev, mark{float64(s.Caught) + 1, y, Kill}) // the first commit that cannot have its work
			}
		}
	}
	p.Add(cells, ev)
	p.X.Min, p.X.Max = 0.2, float64(c.Rounds)+0.8
	p.Y.Min, p.Y.Max = -0.6, float64(len(rows))-0.4
	p.X.Tick.Marker = ticks{12, whole}
	p.X.Label.Text = "round"
	p.Y.Tick.Marker = names
	return p
}

func whole(x float64) string {
	if x != float64(int(x)) {
		return ""
	}
	return plain(x)
}

// auditsPerRound draws how many verdicts each commit has, by finding.
func auditsPerRound(c *Chronicle) *plot.Plot {
	var b bars
	top := 0.0
	var rs []round
	for _, l := range c.Lineage.Chain {
		if l.Round == 0 || l.Round > c.Rounds {
			continue
		}
		rs = append(rs, round{Round: l.Round})
		n := map[string]float64{}
		for _, v := range l.Verdicts {
			n[v.Finding]++
		}
		y := 0.0
		for _, f := range []struct {
			finding string
			colour  int
		}{{foundPass, passSlot}, {foundWithheld, withheldSlot}, {foundWrong, badSlot}} {
			b = append(b, bar{float64(l.Round) - 0.4, float64(l.Round) + 0.4, y, y + n[f.finding], f.colour})
			y += n[f.finding]
		}
		top = max(top, y)
	}
	if len(rs) == 0 {
		rs = []round{{Round: 0}}
	}
	p := stacked(b, rs, top, whole)
	return p
}

// pay draws what each peer earned, by kind of work, and to the left what it lost.
func pay(c *Chronicle) *plot.Plot {
	p := newPlot()
	var names rowNames
	var b bars
	hi, lo := 0.0, 0.0
	var notes labels
	for i, y := range c.payments() {
		row := float64(len(c.Peers) - 1 - i)
		names = append(names, y.Peer)
		x := 0.0
		for _, w := range y.Work {
			colour := computeSlot
			if w.Kind == "validation" {
				colour = exchangeSlot
			}
			v, err := w.Earned.Float64()
			if err != nil {
				continue
			}
			b = append(b, bar{x, x + v, row - 0.3, row + 0.3, colour})
			x += v
		}
		lost, err := y.Slashed.Float64()
		if err == nil && lost > 0 {
			b = append(b, bar{-lost, 0, row - 0.3, row + 0.3, badSlot})
		}
		hi, lo = max(hi, x), min(lo, -lost)
		note := fmt.Sprintf("%.1f", x)
		if lost > 0 {
			note = fmt.Sprintf("%.1f, lost %.0f", x, lost)
		}
		notes = append(notes, label{x: x, y: row, text: []string{note}})
	}
	p.Add(b, notes)
	p.X.Min, p.X.Max = lo*1.08, max(hi, 1)*1.22
	p.Y.Min, p.Y.Max = -0.6, float64(len(c.Peers))-0.4
	p.X.Tick.Marker = ticks{5, plain}
	p.X.Label.Text = "tokens"
	p.Y.Tick.Marker = names
	return p
}

// A label is a word to the right of a place of the chart. Where it must end
// before some place, the longest of its versions that fits is written.
type label struct {
	x, y  float64
	text  []string
	end   float64
	above bool // at the top edge of the chart
	pale  bool // on a dark bar
}

type labels []label

// Plot implements plot.Plotter.
func (l labels) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	style := text.Style{Color: slot(inkSlot), Font: labelStyle, Handler: p.TextHandler, XAlign: draw.XLeft, YAlign: draw.YCenter}
	for _, x := range l {
		at := vg.Point{X: tx(x.x) + 5, Y: ty(x.y)}
		if x.above {
			at.Y = c.Max.Y - 7
		}
		style.Color = slot(inkSlot)
		if x.pale {
			style.Color = slot(cardSlot)
		}
		for _, w := range x.text {
			if x.end == 0 || at.X+style.Width(w) < tx(x.end) {
				c.FillText(style, at, w)
				break
			}
		}
	}
}

// story draws one cheat's way through the chain: its work, who audited it, what
// the chain and the ledger did.
func story(c *Chronicle, s CheatSummary) *plot.Plot {
	p := newPlot()
	liar := c.peerOf(s.ID)
	from := float64(s.From) - min(float64(s.From), 2) - 0.5
	end := max(s.Caught, s.SlashedRound, s.From+4)
	to := min(float64(end)+4, float64(c.Rounds)) + 0.5
	rows := rowNames{map[bool]string{true: "verdicts", false: "deltas"}[liar.Validator]}
	var judges []*PeerRecord
	for _, q := range c.Peers {
		if q.Validator && q != liar {
			judges = append(judges, q)
			rows = append(rows, q.Name+" audits")
		}
	}
	rows = append(rows, "the chain")
	if c.Money != nil {
		rows = append(rows, "its stake")
	}
	y := func(row int) float64 { return float64(len(rows) - 1 - row) }
	in := func(r uint64) bool { return float64(r) > from && float64(r) < to }
	var b bars
	var ev marks
	cell := func(r uint64, row, colour int) {
		b = append(b, bar{float64(r) - 0.42, float64(r) + 0.42, y(row) - 0.3, y(row) + 0.3, colour})
	}
	for _, l := range c.Lineage.Chain {
		if !in(l.Round) {
			continue
		}
		for _, d := range l.Deltas {
			if d.Peer == s.ID {
				cell(l.Round, 0, map[bool]int{true: badSlot, false: passSlot}[d.Round >= s.From])
			}
		}
		for _, v := range l.Verdicts {
			if v.From == s.ID {
				cell(l.Round, 0, map[bool]int{true: badSlot, false: passSlot}[v.Round >= s.From])
			}
			if j := slices.IndexFunc(judges, func(q *PeerRecord) bool { return q.ID == v.From }); j >= 0 && v.Peer == s.ID {
				do := Kill
				if v.Finding == foundPass {
					do = audits
				}
				ev = append(ev, mark{float64(l.Round), y(1 + j), do})
			}
		}
	}
	row := 1 + len(judges)
	var words labels
	step := func(x0, x1 float64, row, colour int, word ...string) {
		b = append(b, bar{x0, min(x1, to), y(row) - 0.3, y(row) + 0.3, colour})
		words = append(words, label{x: x0, y: y(row), text: word, end: min(x1, to), pale: colour == badSlot})
	}
	caught := to
	if s.Caught > 0 {
		caught = float64(s.Caught) - 0.5
	}
	accused := caught
	if s.Accused > 0 && s.Accused < s.Caught {
		accused = float64(s.Accused) - 0.5
	}
	step(from, accused, row, paleSlot, "a member")
	if accused < caught {
		step(accused, caught, row, withheldSlot, "accused")
	}
	if s.Caught > 0 {
		step(caught, to, row, gridSlot, "convicted: "+s.Why+"; dropped", "convicted", "out")
	}
	if c.Money != nil {
		cut := to
		if s.Slashed {
			cut = float64(s.SlashedRound)
		}
		step(from, cut, row+1, paleSlot, "whole")
		if s.Slashed {
			step(cut, to, row+1, badSlot, string(s.SlashedAmount)+" tokens slashed", "slashed")
		}
	}
	at := verticals{float64(s.From) + 0.5} // work of a round is in the next commit
	p.Add(b, ev, at, words, labels{{x: float64(s.From) + 0.5, text: []string{"lies begin"}, above: true}})
	p.X.Min, p.X.Max = from, to
	p.Y.Min, p.Y.Max = -0.6, float64(len(rows))+0.1
	p.X.Tick.Marker = ticks{12, whole}
	p.X.Label.Text = "round of the commit"
	p.Y.Tick.Marker = rows
	return p
}
