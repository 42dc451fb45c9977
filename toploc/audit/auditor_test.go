package audit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

func peer(n byte) wire.PeerID { return wire.PeerID{2, n} }

func auditor(rate uint64) *Auditor {
	a := NewAuditor(Config{Self: peer(0), Coin: testCoin, Rate: rate, Every: 25, Window: 6, Patience: 3})
	a.note(subject(7), 3, 0) // a delta that was seen
	return a
}

var testCoin = NewCoin([]byte("auditor"), testRun)

func list(a *Auditor) string {
	var out []string
	for _, t := range a.Tasks() {
		out = append(out, fmt.Sprintf("%s %d/%d", t.Reason, t.Peer[1], t.Round))
	}
	return strings.Join(out, ", ")
}

// What is looked at, and in which order.
func TestAuditorChooses(t *testing.T) {
	a := auditor(10_000)
	works := []Work{{subject(1), peer(1), 3, 100}, {subject(2), peer(2), 3, 60}, {subject(3), peer(0), 3, 100}, {subject(4), peer(4), 2, 100}}
	passed := []Passed{
		{subject(10), subject(1), peer(5), 3, 2}, // by another
		{subject(11), subject(2), peer(0), 3, 1}, // its own
		{subject(12), subject(10), peer(6), 3, 2},
		{subject(13), subject(12), peer(5), 3, 2}, // too far from a delta
	}
	head := Head{Round: 4, Since: 1, Works: works, Passed: passed}
	a.Adopted(head)
	a.Adopted(head) // again, as after a fork: nothing twice
	// What is owed, and then the oldest.
	if got, want := list(a), "coin 2/3, coin 4/2, coin 1/3, cross-check 5/3, cross-check 6/3"; !sameWords(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	for _, x := range a.Tasks() {
		d := DrawFor(x.Coin, x.Subject, 10_000, map[wire.CID]uint64{subject(1): 4, subject(2): 3, subject(4): 4}[x.Subject])
		if CheckReveal(testCoin.At(1), 1, head.Round, x.Coin) != nil || x.Seed != d.Seed || !x.Verdict && x.Segment != d.Segment || x.Verdict && x.Segment != 2 || x.Until != x.Round+6 {
			t.Errorf("%+v", x)
		}
		if x.Seed != SeedOf(x.Coin, x.Subject, x.Segment, peer(0)) {
			t.Error("another validator gets another seed")
		}
	}
	// A case comes first, of others' work only, and a suspicion before the coin.
	mine := a.Tasks()[slices.IndexFunc(a.Tasks(), func(x Task) bool { return x.Peer == peer(1) })]
	a.Adopted(Head{Round: 5, Since: 1, Cases: []Accusation{
		{Subject: subject(7), Peer: peer(7), Round: 4, Segment: 0},
		{Subject: subject(8), Peer: peer(0), Round: 4, Segment: 0},
		{Subject: subject(9), Peer: peer(9), Round: 4, Segment: 1, Spoken: true},
		{Subject: mine.Subject, Peer: mine.Peer, Round: mine.Round, Segment: mine.Segment},
	}})
	a.Suspect(Work{subject(6), peer(6), 4, 100}, 1)
	a.Suspect(Work{subject(5), peer(0), 4, 100}, 1)
	if got, want := list(a), "case 1/3, case 7/4, suspicion 6/4, coin 2/3, coin 4/2, cross-check 5/3, cross-check 6/3"; !sameWords(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	if first := a.Tasks()[0]; first.Subject != mine.Subject || first.Coin == nil || first.Seed != mine.Seed {
		t.Error("the coin's choice lost its coin because there is a case as well")
	}
	if x := a.Tasks()[1]; x.Coin != nil || x.Seed != OwnSeed(x.Subject, x.Segment, peer(0)) {
		t.Errorf("%+v", x)
	}
	// The cases are closed: what the coin chose remains, the other does not.
	a.Adopted(Head{Round: 6, Since: 1})
	if got, want := list(a), "suspicion 6/4, coin 2/3, coin 4/2, coin 1/3, cross-check 5/3, cross-check 6/3"; !sameWords(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	// Time drops what the window has left behind.
	a.Adopted(Head{Round: 9, Since: 1})
	if got := list(a); strings.Contains(got, "/2") || !strings.Contains(got, "coin 1/3") {
		t.Error(got)
	}
	a.Adopted(Head{Round: 40, Since: 1})
	if got := list(a); got != "" || len(a.said)+len(a.depth)+len(a.ages) > 0 {
		t.Errorf("%s; and %d, %d, %d remembered", got, len(a.said), len(a.depth), len(a.ages))
	}
}

// sameWords compares lists of which neighbours of one class and round may come either way.
func sameWords(got, want string) bool {
	g, w := strings.Split(got, ", "), strings.Split(want, ", ")
	class := func(s string) string { return s[:strings.IndexByte(s, ' ')] + s[strings.IndexByte(s, '/'):] }
	for i := range g {
		if i >= len(w) || class(g[i]) != class(w[i]) {
			return false
		}
	}
	slices.Sort(g)
	slices.Sort(w)
	return slices.Equal(g, w)
}

// A newcomer's coin is worth nothing for work older than itself.
func TestAuditorIsNoValidatorYet(t *testing.T) {
	a := auditor(10_000)
	h := Head{Round: 4, Works: []Work{{subject(1), peer(1), 3, 100}}, Cases: []Accusation{{Subject: subject(7), Peer: peer(7), Round: 3}}}
	a.Adopted(h)
	if got := list(a); got != "" {
		t.Error(got)
	}
	h.Since = 4
	h.Cases = append(h.Cases, Accusation{Subject: subject(8), Peer: peer(8), Round: 3}) // of work that was not seen
	a.Adopted(h)
	if got := list(a); got != "case 7/3" {
		t.Error(got)
	}
}

func TestAuditorSaysOnce(t *testing.T) {
	a := auditor(10_000)
	h := Head{Round: 4, Since: 1, Works: []Work{{subject(1), peer(1), 3, 100}}}
	a.Adopted(h)
	x, ok := a.Next(ByCross)
	if !ok || x.Subject != subject(1) {
		t.Fatalf("%+v, %v", x, ok)
	}
	if _, again := a.Next(ByCross); again {
		t.Error("one task is given twice at a time")
	}
	a.Said(x.Subject, x.Segment, x.Round)
	a.Adopted(h)
	a.Adopted(Head{Round: 5, Since: 1, Cases: []Accusation{{Subject: x.Subject, Peer: x.Peer, Round: 3, Segment: x.Segment}}})
	a.Suspect(h.Works[0], x.Segment)
	if _, again := a.Next(ByCross); again {
		t.Error("it looks at what it has judged")
	}
}

// Material that is not to be had is asked for with every head; that it is
// withheld is said once, after patience; and it is looked for on.
func TestAuditorPatience(t *testing.T) {
	a := auditor(10_000)
	h := Head{Round: 4, Since: 1, Works: []Work{{subject(1), peer(1), 3, 100}}}
	said := 0
	for ; h.Round <= 12; h.Round++ {
		a.Adopted(h)
		h.Works = nil // in one commit only
		n := 0
		for x, ok := a.Next(ByCross); ok; x, ok = a.Next(ByCross) {
			n++
			if a.Failed(x.Subject, x.Segment, true) {
				said++
				a.Called(x.Subject, x.Segment)
				if h.Round != 7 {
					t.Errorf("withheld is said in round %d", h.Round)
				}
			}
		}
		if want := map[bool]int{true: 1}[h.Round <= 9]; n != want {
			t.Errorf("round %d: %d tries, want %d", h.Round, n, want)
		}
	}
	if said != 1 {
		t.Errorf("withheld was said %d times", said)
	}
	a = auditor(10_000)
	for r := uint64(4); r < 7; r++ {
		a.Adopted(Head{Round: r, Since: 1, Cases: []Accusation{{Subject: subject(7), Peer: peer(7), Round: 3}}})
		if x, ok := a.Next(ByCross); !ok || a.Failed(x.Subject, x.Segment, true) != (r == 5) {
			t.Errorf("round %d of a case: %v", r, ok)
		}
		if r == 5 {
			a.Called(subject(7), 0)
		}
	}
	a = auditor(10_000)
	a.Adopted(Head{Round: 4, Since: 1, Passed: []Passed{{subject(10), subject(1), peer(5), 3, 2}}})
	for r := uint64(4); r < 12; r++ {
		if x, ok := a.Next(ByCross); ok && a.Failed(x.Subject, x.Segment, true) {
			t.Error("a verdict is called withheld")
		}
		a.Adopted(Head{Round: r, Since: 1})
	}
}

// What fails for another reason than that the accused does not serve counts against nobody, and keeps
// nobody from saying so later.
func TestAuditorFailsByItself(t *testing.T) {
	a := auditor(10_000)
	h := Head{Round: 4, Since: 1, Works: []Work{{subject(1), peer(1), 3, 100}}}
	for ; h.Round <= 9; h.Round++ {
		a.Adopted(h)
		h.Works = nil
		x, ok := a.Next(ByCross)
		if !ok {
			t.Fatalf("round %d: nothing to do", h.Round)
		}
		theirs := h.Round != 5 && h.Round != 7
		if got := a.Failed(x.Subject, x.Segment, theirs); got != (h.Round >= 8) {
			t.Errorf("round %d: withheld %v", h.Round, got)
		}
	}
}

// Who is asked and does not answer is no better than who has nothing, and the
// asking goes on.
func TestAuditorWaits(t *testing.T) {
	a := auditor(10_000)
	h := Head{Round: 4, Since: 1, Works: []Work{{subject(1), peer(1), 3, 100}}}
	a.Adopted(h)
	x, ok := a.Next(ByCross)
	if !ok {
		t.Fatal("nothing to do")
	}
	if a.Waits(x.Subject, x.Segment) || a.Waits(x.Subject, x.Segment) || a.Waits(x.Subject, x.Segment) {
		t.Error("withheld after one round")
	}
	for h = (Head{Round: 5, Since: 1}); h.Round < 10; h.Round++ {
		a.Adopted(h)
		if _, again := a.Next(ByCross); again {
			t.Errorf("round %d: it is asked for again while it is asked for", h.Round)
		}
		if got := a.Waits(x.Subject, x.Segment); got != (h.Round == 7 || h.Round == 8) {
			t.Errorf("round %d: withheld %v", h.Round, got)
		}
		if h.Round == 8 { // it could not be said before
			a.Called(x.Subject, x.Segment)
		}
		if now, ok := a.Current(x.Subject, x.Segment); !ok || !now.Again {
			t.Errorf("round %d: %+v, %v", h.Round, now, ok)
		}
	}
	a.Adopted(Head{Round: 10, Since: 1})
	if _, ok := a.Current(x.Subject, x.Segment); ok || a.Waits(x.Subject, x.Segment) {
		t.Error("the window is over, and it is still wanted")
	}
}

// A case has a window of its own, however old the work is; only where others wait
// is more than so much begun; and what the coin chose is then a case's.
func TestAuditorLateCase(t *testing.T) {
	a := auditor(10_000)
	a.Adopted(Head{Round: 4, Since: 1, Works: []Work{{subject(1), peer(1), 3, 100}}})
	x, _ := a.Next(ByCross)
	late := Accusation{Subject: x.Subject, Peer: x.Peer, Round: x.Round, Segment: x.Segment, Opened: 8}
	for r := uint64(8); r <= 14; r++ {
		a.Adopted(Head{Round: r, Since: 1, Cases: []Accusation{late, {Subject: subject(7), Peer: peer(7), Round: 3, Opened: 8}}})
		now, ok := a.Current(x.Subject, x.Segment)
		if !ok || now.Reason != ByCase || now.Until != 14 || now.Coin == nil {
			t.Fatalf("round %d: %+v, %v", r, now, ok)
		}
	}
	a.Suspect(Work{subject(6), peer(6), 13, 100}, 1)
	if y, ok := a.Next(ByCase); !ok || y.Subject != subject(7) {
		t.Errorf("%+v, %v", y, ok)
	}
	if y, ok := a.Next(ByCase); ok {
		t.Errorf("no case: %+v", y)
	}
	a.Adopted(Head{Round: 15, Since: 1})
	if now, ok := a.Current(x.Subject, x.Segment); ok {
		t.Errorf("the case is closed, and the work's window over: %+v", now)
	}
}

// A flood of work does not grow it beyond its bound, and cases stay.
func TestAuditorIsBounded(t *testing.T) {
	a := auditor(10_000)
	h := Head{Round: 4, Since: 1, Cases: []Accusation{{Subject: subject(7), Peer: peer(7), Round: 3}}}
	for i := range 2 * maxTasks {
		h.Works = append(h.Works, Work{subject(100 + i), peer(1), 3, 100})
	}
	a.Adopted(h)
	if n := len(a.Tasks()); n != maxTasks || a.Tasks()[0].Reason != ByCase {
		t.Errorf("%d tasks, the first for a %s", n, a.Tasks()[0].Reason)
	}
}

func TestSegments(t *testing.T) {
	c := Config{Every: 25}
	for steps, want := range map[uint64]uint64{0: 1, 1: 1, 25: 1, 26: 2, 100: 4, 101: 5} {
		if got := c.Segments(steps); got != want {
			t.Errorf("%d steps have %d segments, want %d", steps, got, want)
		}
	}
	if none := (&Config{}); none.Segments(100) != 1 {
		t.Error("without segments there is one")
	}
}

// Windows leave time to ask in vain, by rounds that are long enough; too short ones leave none.
func TestAskRounds(t *testing.T) {
	for _, x := range []struct{ window, late, rounds uint64 }{
		{2, 1, 0}, {5, 2, 0}, {6, 2, 1}, {8, 2, 3}, {8, 4, 1}, {8, 5, 0}, {12, 2, 6}, {20, 2, 12}, {64, 2, 39}, {64, 46, 1}, {64, 64, 0},
	} {
		if got := AskRounds(x.window, x.late); got != x.rounds {
			t.Errorf("window %d, %d late: %d rounds, want %d", x.window, x.late, got, x.rounds)
		}
		if r := Shortest(x.window, x.late); x.rounds > 0 && time.Duration(x.rounds)*r < 5*Asking/4 {
			t.Errorf("window %d, %d late: rounds of %v", x.window, x.late, r)
		}
	}
	if r := Shortest(8, 2); r != 2500*time.Millisecond {
		t.Errorf("by default a round lasts %v at least", r)
	}
}
