package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/shoalnet/shoal/node"
)

// A screen is where a command tells how it stands: one line that is overwritten
// on a terminal, plain lines now and then elsewhere.
type screen struct {
	a     *app
	tty   *os.File // nil: not a terminal
	shown bool     // a line to be overwritten is on the terminal
	last  time.Time
	begun time.Time
}

// patience is for how long work goes on without a word about how far it is.
const patience = time.Second

func (a *app) screen() *screen {
	s := &screen{a: a, begun: time.Now()}
	if f, ok := a.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.tty = f
	}
	return s
}

// line prints a line that stays.
func (s *screen) line(text string) {
	s.clear()
	fmt.Fprintln(s.a.err, printable(text))
}

// now shows how it stands at this moment, but not with --json; every says how often plain
// output repeats it.
func (s *screen) now(text string, every time.Duration) {
	if s.a.json {
		return
	}
	text = line(text)
	if s.tty == nil {
		if time.Since(s.last) >= every {
			s.last = time.Now()
			fmt.Fprintln(s.a.err, text)
		}
		return
	}
	if w, _, err := term.GetSize(int(s.tty.Fd())); err == nil && w > 0 {
		if r := []rune(text); len(r) >= w {
			text = string(r[:w-1])
		}
	}
	fmt.Fprint(s.tty, "\r\x1b[K", text)
	s.shown = true
}

// late shows how far work is that has taken a while since the screen was made.
func (s *screen) late(format string, args ...any) {
	if time.Since(s.begun) > patience {
		s.now(fmt.Sprintf(format, args...), 5*time.Second)
	}
}

// fetching is what shows how much of something is there; of what is soon there, nothing.
func (s *screen) fetching(what string) func(done, total int64) {
	start := time.Now()
	return func(done, total int64) {
		if done < total && time.Since(start) > time.Second {
			s.now(fmt.Sprintf("fetching %s: %s of %s", what, size(done), size(total)), 5*time.Second)
		}
	}
}

// clear removes the overwritten line.
func (s *screen) clear() {
	if s.shown {
		fmt.Fprint(s.tty, "\r\x1b[K")
		s.shown = false
	}
}

// A joinReport turns statuses into what join prints.
type joinReport struct {
	*screen
	was     node.Status
	started time.Time
	once    bool // it leaves by itself when the run is over
	hinted  bool
	trouble string
	closing bool // was told of
}

// tell is called a few times a second.
func (r *joinReport) tell(st node.Status) {
	if r.a.json {
		r.tellJSON(st)
		return
	}
	if st.Name != "" && r.was.Name == "" {
		r.line(fmt.Sprintf("run %s  %s", st.Name, st.Run))
	}
	if !r.hinted && st.Peers == 0 && st.Round == 0 && time.Since(r.started) > 20*time.Second {
		r.hinted = true
		r.line("no peers yet. If others take part already, give the address of one of them: --bootstrap /ip4/…/p2p/16Uiu2…")
	}
	if st.Trouble != "" && st.Trouble != r.trouble {
		r.line("waiting: " + st.Trouble)
	}
	r.trouble = st.Trouble
	if st.Head != r.was.Head && st.Round > 0 && (st.Rounds == 0 || st.Round <= st.Rounds) {
		r.line(commitLine(st))
	}
	if st.Phase == node.Closing && r.was.Phase != node.Closing && !r.closing {
		r.closing = true
		r.line("training is over: rounds without work follow until the last ones are audited")
	}
	if st.Done && !r.was.Done {
		serving := "serving it to others; Ctrl-C leaves. "
		if r.once {
			serving = ""
		}
		r.line(fmt.Sprintf("the run is over: commit %s\n  state %s\n  %sTo take the model out: shoal export %s model/", st.Result, st.ResultState, serving, st.Name))
	}
	if st.Done && r.once {
		r.now("leaving", 15*time.Second)
	} else {
		r.now(standing(st), 15*time.Second)
	}
	r.was = st
}

func (r *joinReport) tellJSON(st node.Status) {
	if st.Head == r.was.Head && st.Phase == r.was.Phase && st.Done == r.was.Done && time.Since(r.last) < 10*time.Second {
		return
	}
	r.last, r.was = time.Now(), st
	if json.NewEncoder(r.a.out).Encode(st) != nil {
		return // nobody reads it any more
	}
}

func commitLine(st node.Status) string {
	out := fmt.Sprintf("commit %d/%d  …%s  roster %d", st.Round, st.Rounds, st.Head.Short(), st.Roster)
	if st.Weak {
		out += "  weak"
	}
	if st.FinalRound > 0 {
		out += fmt.Sprintf("  final %d", st.FinalRound)
	}
	if st.ValLoss > 0 {
		out += fmt.Sprintf("  val %.4f", st.ValLoss)
	}
	return out
}

// standing is one line on where a peer stands.
func standing(st node.Status) string {
	var p []string
	add := func(format string, args ...any) { p = append(p, fmt.Sprintf(format, args...)) }
	switch {
	case st.Done:
		add("round %d, the last: serving", st.Rounds)
	case (st.Phase == node.Syncing || st.Checkpoint.Base && st.Peers > 0) && st.Checkpoint.Done < st.Checkpoint.Total:
		what := "syncing"
		if st.Checkpoint.Base {
			what = "fetching the model that the run starts from:"
		}
		add(what+" %s of %s, %s/s", size(st.Checkpoint.Done), size(st.Checkpoint.Total), size(int64(st.Checkpoint.Rate)))
	case st.Phase == node.Training && st.InnerSteps > 0:
		add("round %d/%d  training %d/%d", st.Round, st.Rounds, st.InnerStep, st.InnerSteps)
	case st.Phase == node.FindingPeers && st.Head.Defined() && st.Round == 0 && st.MinPeers > 1: // it has all that it needs
		add("waiting for %d trainers to begin", st.MinPeers)
	case st.Phase == node.Closing:
		add("round %d/%d  closing, %d rounds so far", st.Rounds, st.Rounds, st.Round-st.Rounds)
	case st.Rounds > 0:
		add("round %d/%d  %s", st.Round, st.Rounds, st.Phase)
	default:
		add("%s", st.Phase)
	}
	if st.Loss > 0 && !st.Done {
		add("loss %.3f", st.Loss)
	}
	if st.TokensPerS > 0 && st.Phase == node.Training {
		add("%s tok/s", count(st.TokensPerS))
	}
	add("%d peers", st.Peers)
	add("↓ %s ↑ %s", size(int64(st.BytesIn)), size(int64(st.BytesOut)))
	return strings.Join(p, "  ")
}

// count writes a number with three digits and a metric suffix.
func count(x float64) string {
	v, unit := metric(x)
	return v + unit
}

// size writes a number of bytes.
func size(n int64) string {
	v, unit := metric(float64(n))
	return v + " " + unit + "B"
}

func metric(x float64) (value, unit string) {
	for _, u := range []struct {
		at  float64
		sym string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if x >= u.at {
			v := x / u.at
			digits := 2
			if v >= 100 {
				digits = 0
			} else if v >= 10 {
				digits = 1
			}
			return strconv.FormatFloat(v, 'f', digits, 64), u.sym
		}
	}
	return strconv.FormatFloat(x, 'f', 0, 64), ""
}
