package testnet

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/p2p/wire"
)

//go:embed report.tmpl.html
var pageSource string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"short":   func(c wire.CID) string { return "…" + c.Short() },
	"tail":    func(p wire.PeerID) string { return "…" + p.Short() },
	"ipfs":    func(c wire.CID) template.URL { return template.URL("ipfs://" + c.String()) }, // base32: nothing to escape
	"peer":    func(i int) template.CSS { return template.CSS(cssSlot(peerSlot(i))) },
	"si":      func(n uint64) string { return si(float64(n)) },
	"bytes":   func(n uint64) string { return si(float64(n)) + "B" },
	"words":   func(s string) string { return strings.ReplaceAll(s, "_", " ") },
	"fix":     fix,
	"clock":   clock,
	"secs":    seconds,
	"pct":     pct,
	"percent": func(p float64) string { return strconv.FormatFloat(100*p, 'f', 0, 64) + " %" },
	"tokens": func(n json.Number) string { // two decimals are enough for a page
		v, err := n.Float64()
		if err != nil {
			return string(n)
		}
		return strconv.FormatFloat(v, 'f', 2, 64)
	},
	"failed": func(r *Report) int { return len(r.Invariants) - held(r) },
}).Parse(pageSource))

// A tile is one key number of the page's head.
type tile struct{ Name, Value, Note string }

func held(r *Report) (n int) {
	for _, i := range r.Invariants {
		if i.OK {
			n++
		}
	}
	return n
}

// render makes report.html: one page, with nothing outside it.
func render(c *Chronicle, r *Report) ([]byte, error) {
	figs, err := figures(c)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = page.Execute(&b, struct {
		*Report
		C       *Chronicle
		Tiles   []tile
		Figures []figure
		Table   []round
	}{r, c, tiles(r), figs, c.rounds()})
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func tiles(r *Report) (out []tile) {
	if r.ValLoss != nil {
		out = append(out, tile{"validation loss", fix(*r.ValLoss), "nats per token, the swarm's model"})
	}
	if r.SingleValLoss != nil && r.GapToSingle != nil {
		out = append(out, tile{"vs. one process", pct(*r.GapToSingle), "with all batches, " + fix(*r.SingleValLoss)})
	}
	if r.AloneValLoss != nil && r.ValLoss != nil {
		out = append(out, tile{"vs. one peer alone", pct(*r.ValLoss / *r.AloneValLoss - 1), "with its own batch, " + fix(*r.AloneValLoss)})
	}
	out = append(out,
		tile{"rounds", strconv.FormatUint(r.Rounds, 10), fmt.Sprintf("%s s each (median)", seconds(r.RoundSeconds))},
		tile{"wall time", clock(r.Seconds), si(float64(r.Tokens)) + " tokens merged"})
	if r.DeltaBytes > 0 {
		out = append(out, tile{"a contribution", si(r.DeltaBytes) + "B", si(r.BytesPerRound) + "B sent per round by all"})
	}
	if len(r.Cheats) > 0 {
		caught, by := 0, uint64(0)
		for _, c := range r.Cheats {
			if c.Caught > 0 {
				caught, by = caught+1, max(by, c.Caught)
			}
		}
		note := "lied to the end"
		if caught > 0 {
			note = fmt.Sprintf("the last by commit %d; honest peers slashed: %d", by, r.SlashedHonest)
		}
		out = append(out, tile{"cheats caught", fmt.Sprintf("%d of %d", caught, len(r.Cheats)), note})
	}
	if len(r.Paid) > 0 {
		sum := 0.0
		for _, p := range r.Paid {
			if v, err := p.Amount.Float64(); err == nil {
				sum += v
			}
		}
		out = append(out, tile{"paid", fix(sum), "tokens, for " + strconv.Itoa(receipts(r)) + " pieces of work"})
	}
	if r.Verified {
		out = append(out, tile{"lineage", "verified", fmt.Sprintf("every outer step, in %s s", seconds(r.LineageSecs))})
	} else {
		out = append(out, tile{"lineage", "not verified", "see the invariants"})
	}
	return out
}

// receipts counts the pieces of work that were paid.
func receipts(r *Report) (n int) {
	for _, p := range r.Paid {
		for _, w := range p.Work {
			n += w.Receipts
		}
	}
	return n
}

// fix writes a number with three significant decimals where they matter.
func fix(x float64) string {
	switch {
	case x >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 3, 64)
}

// seconds writes a duration with one decimal.
func seconds(x float64) string { return strconv.FormatFloat(x, 'f', 1, 64) }

func pct(x float64) string { return fmt.Sprintf("%+.1f %%", 100*x) }
