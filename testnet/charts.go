package testnet

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"regexp"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The colours of a chart are places in the page's palette, so that one drawing
// serves light and dark: the drawing holds #0FEExx, the page var(--kxx).
const (
	inkSlot = iota
	mutedSlot
	gridSlot
	swarmSlot
	singleSlot
	aloneSlot
	computeSlot
	exchangeSlot
	waitSlot
	badSlot
	goodSlot
	cardSlot
	bandSlot
	passSlot
	withheldSlot
	paleSlot
	peerSlots = 16 // and what follows: one for each peer, then round again
)

// peerColours is how many peers have a colour of their own.
const peerColours = 8

func slot(n int) color.Color { return color.RGBA{0x0f, 0xee, uint8(n), 0xff} }

func peerSlot(i int) int { return peerSlots + i%peerColours }

// cssSlot is the CSS value of a place in the palette.
func cssSlot(n int) string { return fmt.Sprintf("var(--k%02X)", n) }

var (
	slotForm   = regexp.MustCompile(`#0FEE([0-9A-F]{2})`)
	fontForm   = regexp.MustCompile(`font-family:[^;"]*;font-variant:[^;"]*;`)
	sizeForm   = regexp.MustCompile(`(?s)^.*?<svg width="[^"]*" height="[^"]*" viewBox="([^"]*)".*?>`)
	labelStyle = font.Font{Typeface: "Liberation", Variant: "Sans", Size: 11}
)

// A size is that of a drawing, in CSS pixels at which its text is readable.
type size struct{ w, h vg.Length }

var (
	wide   = size{540, 270}
	narrow = size{345, 250}
	full   = size{1110, 230} // over both columns
)

// newPlot is an empty plot in the page's style: no box, pale horizontal lines.
func newPlot() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.LineStyle.Width = 0
		a.Tick.LineStyle.Width = 0
		a.Tick.Length = 0
		a.Padding = 4
		a.Tick.Label.Color = slot(mutedSlot)
		a.Tick.Label.Font = labelStyle
		a.Label.TextStyle.Color = slot(mutedSlot)
		a.Label.TextStyle.Font = labelStyle
		a.Label.Padding = 3
	}
	p.X.LineStyle = draw.LineStyle{Color: slot(mutedSlot), Width: 0.75}
	return p
}

// svg renders a plot for embedding in the page.
func svg(p *plot.Plot, s size, title string) (string, error) {
	c := vgsvg.New(s.w, s.h)
	p.Draw(draw.Crop(draw.New(c), 0, -8, 0, -4))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return "", fmt.Errorf("draw %s: %w", title, err)
	}
	out := sizeForm.ReplaceAllString(b.String(), `<svg viewBox="$1" role="img" aria-label="`+title+`">`)
	out = slotForm.ReplaceAllString(out, "var(--k$1)")
	return fontForm.ReplaceAllString(out, ""), nil
}

// ticks puts about n round numbers on an axis and writes them by form.
type ticks struct {
	n    int
	form func(float64) string
}

func (t ticks) Ticks(lo, hi float64) (out []plot.Tick) {
	if !(hi > lo) || !finite(lo) || !finite(hi) {
		return nil
	}
	step := niceStep((hi - lo) / float64(t.n))
	for i := math.Ceil(lo/step-1e-9) + 0; i*step <= hi+step*1e-9; i++ { // + 0: never -0
		out = append(out, plot.Tick{Value: i * step, Label: t.form(i * step)})
	}
	return out
}

// niceStep rounds up to 1, 2, 2.5 or 5 times a power of ten.
func niceStep(x float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if x <= m*p*(1+1e-9) {
			return m * p
		}
	}
	return 10 * p
}

func plain(x float64) string { return strconv.FormatFloat(x, 'g', 4, 64) }

// si writes a count with a metric suffix.
func si(x float64) string {
	for _, u := range []struct {
		at  float64
		sym string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(x) >= u.at {
			return strconv.FormatFloat(x/u.at, 'g', 3, 64) + u.sym
		}
	}
	return plain(x)
}

// clock writes seconds as minutes and seconds.
func clock(x float64) string {
	s := int(math.Round(x))
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// minuteTicks puts ticks at whole parts of minutes.
type minuteTicks int

func (n minuteTicks) Ticks(lo, hi float64) (out []plot.Tick) {
	if !(hi > lo) || !finite(lo) || !finite(hi) {
		return nil
	}
	step := niceStep((hi - lo) / float64(n))
	for _, s := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600} {
		if (hi-lo)/s <= float64(n) {
			step = s
			break
		}
	}
	for i := math.Ceil(lo/step - 1e-9); i*step <= hi+step*1e-9; i++ {
		out = append(out, plot.Tick{Value: i * step, Label: clock(i * step)})
	}
	return out
}

// horizontals draws the pale lines behind the data.
func horizontals() *plotter.Grid {
	g := plotter.NewGrid()
	g.Vertical.Color = nil
	g.Horizontal = draw.LineStyle{Color: slot(gridSlot), Width: 0.75}
	return g
}

// curve is a line through points, finite ones only.
func curve(pts plotter.XYs, colour int, width vg.Length, dash ...vg.Length) (*plotter.Line, error) {
	ok := pts[:0:0]
	for _, p := range pts {
		if finite(p.X) && finite(p.Y) {
			ok = append(ok, p)
		}
	}
	if len(ok) == 0 {
		return nil, nil
	}
	l, err := plotter.NewLine(ok)
	if err != nil {
		return nil, fmt.Errorf("curve: %w", err)
	}
	l.LineStyle = draw.LineStyle{Color: slot(colour), Width: width, Dashes: dash}
	return l, nil
}

// A bar is a rectangle in data coordinates.
type bar struct {
	x0, x1, y0, y1 float64
	colour         int
}

// bars fills rectangles.
type bars []bar

// Plot implements plot.Plotter.
func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for _, r := range b {
		if !(r.x1 > r.x0) || !(r.y1 > r.y0) || !finite(r.x1) || !finite(r.y1) {
			continue
		}
		c.FillPolygon(slot(r.colour), []vg.Point{
			{X: tx(r.x0), Y: ty(r.y0)}, {X: tx(r.x1), Y: ty(r.y0)}, {X: tx(r.x1), Y: ty(r.y1)}, {X: tx(r.x0), Y: ty(r.y1)},
		})
	}
}

// A mark is an event at a place of the chart.
type mark struct {
	x, y float64
	do   Action
}

// audits is the mark of an audit that passed.
const audits Action = "audit"

// marks draws what befell the peers: a cross for the end of a process or a lie
// that was found, a circle for a beginning or an audit that passed.
type marks []mark

// Plot implements plot.Plotter.
func (m marks) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	for _, k := range m {
		at := vg.Point{X: tx(k.x), Y: ty(k.y)}
		const r = 4.5
		switch k.do {
		case Kill, Stop:
			for _, line := range []draw.LineStyle{{Color: slot(cardSlot), Width: 5}, {Color: slot(badSlot), Width: 2}} {
				c.StrokeLine2(line, at.X-r, at.Y-r, at.X+r, at.Y+r)
				c.StrokeLine2(line, at.X-r, at.Y+r, at.X+r, at.Y-r)
			}
		case audits:
			c.DrawGlyph(draw.GlyphStyle{Color: slot(passSlot), Radius: r, Shape: draw.CircleGlyph{}}, at)
		default:
			c.DrawGlyph(draw.GlyphStyle{Color: slot(cardSlot), Radius: r + 1.5, Shape: draw.CircleGlyph{}}, at)
			c.DrawGlyph(draw.GlyphStyle{Color: slot(goodSlot), Radius: r, Shape: draw.CircleGlyph{}}, at)
		}
	}
}

// verticals draws a thin line over the whole height at each moment.
type verticals []float64

// Plot implements plot.Plotter.
func (v verticals) Plot(c draw.Canvas, p *plot.Plot) {
	tx, _ := p.Transforms(&c)
	for _, x := range v {
		c.StrokeLine2(draw.LineStyle{Color: slot(mutedSlot), Width: 0.75, Dashes: []vg.Length{2, 3}}, tx(x), c.Min.Y, tx(x), c.Max.Y)
	}
}

// rowNames labels the rows of a chart by peer.
type rowNames []string

func (r rowNames) Ticks(_, _ float64) (out []plot.Tick) {
	for i, n := range r {
		out = append(out, plot.Tick{Value: float64(len(r) - 1 - i), Label: n})
	}
	return out
}
