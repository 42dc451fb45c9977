package testnet

import (
	"html/template"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// A Figure is one chart of the report, drawn for two widths.
type figure struct {
	Title, Note  string
	Legend       []key
	Wide, Narrow template.HTML
	Full         template.HTML // over both columns, where there are two
}

// A key is one entry of a legend.
type key struct {
	Name, Value string
	Colour      template.CSS
	Kind        string // line, dash, dot, thin, box, cross, circle
}

const rosterTitle = "Peers in the roster"

// figures draws all charts of the report.
func figures(c *Chronicle) ([]figure, error) {
	rs := c.rounds()
	if len(rs) == 0 {
		return nil, nil
	}
	drawings := append(auditDrawings(c), []drawing{
		{figure{Title: "Loss over tokens", Note: "nats per token; every curve at equal inner steps", Legend: lossLegend(c)},
			func() (*plot.Plot, error) { return lossOverTokens(c, rs) }, false},
		{figure{Title: "Loss over time", Note: timeNote(c), Legend: lossLegend(c)},
			func() (*plot.Plot, error) { return lossOverTime(c, rs) }, false},
		{figure{Title: rosterTitle, Note: "coloured: a member of the agreed roster; minutes since the start", Legend: rosterLegend(c)},
			func() (*plot.Plot, error) { return roster(c) }, true},
		{figure{Title: "Bytes per round", Note: "sent by each peer, payloads and protocol, stacked", Legend: peerLegend(c)},
			func() (*plot.Plot, error) { return bytesPerRound(c, rs) }, false},
		{figure{Title: "Where a round's time goes", Note: "mean over the peers that trained, seconds; stragglers cost others waiting", Legend: splitLegend(rs)},
			func() (*plot.Plot, error) { return timeSplit(rs) }, false},
	}...)
	var out []figure
	for _, f := range drawings {
		type sheet struct {
			size
			html *template.HTML
		}
		sheets := []sheet{{wide, &f.Wide}, {narrow, &f.Narrow}}
		if f.full {
			sheets = append(sheets, sheet{full, &f.Full})
		}
		for _, to := range sheets {
			p, err := f.draw()
			if err != nil {
				return nil, err
			}
			s, err := svg(p, to.size, f.Title)
			if err != nil {
				return nil, err
			}
			*to.html = template.HTML(s) // drawn here, of numbers and our own words
		}
		out = append(out, f.figure)
	}
	return out, nil
}

func lossLegend(c *Chronicle) []key {
	var out []key
	if v, ok := c.valLoss(); ok {
		out = append(out, key{"swarm, validation", fix(v), template.CSS(cssSlot(swarmSlot)), "line"})
	}
	out = append(out, key{"swarm, training", "", template.CSS(cssSlot(swarmSlot)), "thin"})
	if len(c.Single) > 0 {
		out = append(out, key{"one process, all batches", fix(lastLoss(c.Single)), template.CSS(cssSlot(singleSlot)), "dash"})
	}
	if len(c.Alone) > 0 {
		out = append(out, key{"one process, one batch", fix(lastLoss(c.Alone)), template.CSS(cssSlot(aloneSlot)), "dot"})
	}
	return out
}

func timeNote(c *Chronicle) string {
	if len(c.Single)+len(c.Alone) == 0 {
		return "minutes since the start; dotted: a peer was killed, stopped or started"
	}
	return "minutes; the single processes ran afterwards, with the machine to themselves; dotted: a peer was killed, stopped or started"
}

func rosterLegend(c *Chronicle) []key {
	out := []key{
		{"started or restarted", "", template.CSS(cssSlot(goodSlot)), "circle"},
		{"killed or stopped", "", template.CSS(cssSlot(badSlot)), "cross"},
	}
	if len(c.Cuts) > 0 {
		out = append(out, key{"partition", "", template.CSS(cssSlot(bandSlot)), "box"})
	}
	return out
}

func peerLegend(c *Chronicle) (out []key) {
	for i, p := range c.Peers {
		out = append(out, key{p.Name, "", template.CSS(cssSlot(peerSlot(i))), "box"})
	}
	return out
}

func splitLegend(rs []round) []key {
	var a, b, w, n float64
	for _, r := range rs[1:] {
		if r.Compute > 0 {
			a, b, w, n = a+r.Compute, b+r.Exchange, w+r.Wait, n+1
		}
	}
	mean := func(x float64) string {
		if n == 0 {
			return ""
		}
		return seconds(x/n) + " s"
	}
	return []key{
		{"compute", mean(a), template.CSS(cssSlot(computeSlot)), "box"},
		{"exchange", mean(b), template.CSS(cssSlot(exchangeSlot)), "box"},
		{"wait", mean(w), template.CSS(cssSlot(waitSlot)), "box"},
	}
}

// lossPlot draws the curves of swarm and baselines on one of two x axes.
func lossPlot(c *Chronicle, rs []round, x func(round) float64, base func(Point) float64) (*plot.Plot, error) {
	p := newPlot()
	p.Y.Tick.Marker = ticks{5, plain}
	p.Add(horizontals())
	var train, val plotter.XYs
	for _, r := range rs {
		if r.Train > 0 {
			train = append(train, plotter.XY{X: x(r), Y: r.Train})
		}
		if r.Val != nil {
			val = append(val, plotter.XY{X: x(r), Y: *r.Val})
		}
	}
	points := func(ps []Point) (out plotter.XYs) {
		for _, b := range ps {
			out = append(out, plotter.XY{X: base(b), Y: b.ValLoss})
		}
		return out
	}
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, l := range []struct {
		pts    plotter.XYs
		colour int
		width  vg.Length
		dash   []vg.Length
	}{
		{train, swarmSlot, 0.8, nil},
		{points(c.Alone), aloneSlot, 1.8, []vg.Length{1.5, 3}},
		{points(c.Single), singleSlot, 1.8, []vg.Length{6, 3}},
		{val, swarmSlot, 2.4, nil},
	} {
		line, err := curve(l.pts, l.colour, l.width, l.dash...)
		if err != nil {
			return nil, err
		}
		if line == nil {
			continue
		}
		p.Add(line)
		for _, q := range l.pts {
			lo, hi = min(lo, q.Y), max(hi, q.Y)
		}
	}
	if hi > lo {
		p.Y.Min, p.Y.Max = lo-0.04*(hi-lo), hi+0.02*(hi-lo)
	}
	return p, nil
}

func lossOverTokens(c *Chronicle, rs []round) (*plot.Plot, error) {
	p, err := lossPlot(c, rs, func(r round) float64 { return float64(r.Tokens) }, func(b Point) float64 { return float64(b.Tokens) })
	if err != nil {
		return nil, err
	}
	p.X.Min = 0
	p.X.Tick.Marker = ticks{5, si}
	p.X.Label.Text = "tokens"
	return p, nil
}

func lossOverTime(c *Chronicle, rs []round) (*plot.Plot, error) {
	p, err := lossPlot(c, rs, func(r round) float64 { return r.Start + r.Seconds }, func(b Point) float64 { return b.Seconds })
	if err != nil {
		return nil, err
	}
	p.X.Min = 0
	p.X.Tick.Marker = minuteTicks(6)
	p.X.Label.Text = "minutes"
	var at verticals
	for _, e := range c.Events {
		at = append(at, e.T)
	}
	p.Add(at)
	return p, nil
}

// roster draws a row for each peer: its time in the roster, and its events.
func roster(c *Chronicle) (*plot.Plot, error) {
	p := newPlot()
	when := c.commitTimes()
	var names rowNames
	var in bars
	var ev marks
	for _, cut := range c.Cuts {
		end := cut.To
		if end == 0 {
			end = c.Seconds
		}
		in = append(in, bar{cut.From, end, -0.6, float64(len(c.Peers)) - 0.4, bandSlot})
	}
	for i, peer := range c.Peers {
		names = append(names, peer.Name)
		y := float64(len(c.Peers) - 1 - i)
		for _, l := range peer.Lives { // a pale bar while the process runs
			end := l.To
			if end == 0 {
				end = c.Seconds
			}
			in = append(in, bar{l.From, end, y - 0.28, y + 0.28, gridSlot})
			ev = append(ev, mark{l.From, y, Join})
			if l.End == string(Kill) || l.End == string(Stop) {
				ev = append(ev, mark{l.To, y, Kill})
			}
		}
		if c.Lineage == nil {
			continue
		}
		for n := 0; n < len(c.Lineage.Chain); n++ {
			l := c.Lineage.Chain[n]
			if l.Round > c.Rounds || !slices.Contains(l.Roster, peer.ID) {
				continue
			}
			for n+1 < len(c.Lineage.Chain) && slices.Contains(c.Lineage.Chain[n+1].Roster, peer.ID) {
				n++
			}
			to := c.Seconds
			if last := c.Lineage.Chain[n].Round; last < c.Rounds {
				to = when[last+1]
			}
			in = append(in, bar{when[l.Round], to, y - 0.28, y + 0.28, peerSlot(i)})
		}
	}
	p.Add(in, ev)
	p.X.Min, p.X.Max = -0.012*c.Seconds, max(1, c.Seconds)
	p.Y.Min, p.Y.Max = -0.6, float64(len(c.Peers))-0.4
	p.X.Tick.Marker = minuteTicks(6)
	p.X.Label.Text = "minutes"
	p.Y.Tick.Marker = names
	return p, nil
}

func bytesPerRound(c *Chronicle, rs []round) (*plot.Plot, error) {
	var b bars
	top := 0.0
	for _, r := range rs {
		y := 0.0
		for i, sent := range r.Sent {
			b = append(b, bar{float64(r.Round) - 0.4, float64(r.Round) + 0.4, y, y + sent, peerSlot(i)})
			y += sent
		}
		top = max(top, y)
	}
	return stacked(b, rs, top, func(x float64) string {
		if x == 0 {
			return "0"
		}
		return si(x) + "B"
	}), nil
}

func timeSplit(rs []round) (*plot.Plot, error) {
	var b bars
	top := 0.0
	for _, r := range rs {
		y := 0.0
		for _, part := range []struct {
			v      float64
			colour int
		}{{r.Compute, computeSlot}, {r.Exchange, exchangeSlot}, {r.Wait, waitSlot}} {
			b = append(b, bar{float64(r.Round) - 0.4, float64(r.Round) + 0.4, y, y + part.v, part.colour})
			y += part.v
		}
		top = max(top, y)
	}
	return stacked(b, rs, top, func(x float64) string {
		if x == 0 {
			return "0"
		}
		return plain(x) + " s"
	}), nil
}

func stacked(b bars, rs []round, top float64, form func(float64) string) *plot.Plot {
	p := newPlot()
	p.Add(horizontals(), b)
	p.X.Min, p.X.Max = float64(rs[0].Round)-0.6, float64(rs[len(rs)-1].Round)+0.6
	p.Y.Min, p.Y.Max = 0, max(top*1.04, 1e-9)
	p.X.Tick.Marker = ticks{7, func(x float64) string {
		if x != math.Trunc(x) {
			return ""
		}
		return plain(x)
	}}
	p.Y.Tick.Marker = ticks{5, form}
	p.X.Label.Text = "round"
	return p
}
