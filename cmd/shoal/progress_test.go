package main

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/wire"
)

func TestCountAndSize(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 999: "999", 1000: "1.00k", 12345: "12.3k", 2.5e6: "2.50M", 7e9: "7.00G", 123e12: "123T"} {
		if got := count(x); got != want {
			t.Errorf("count(%g) = %q, want %q", x, got, want)
		}
	}
	if got := size(2_500_000); got != "2.50 MB" {
		t.Errorf("size: %q", got)
	}
}

// The status says whom a validator suspects and why, and how open cases stand.
func TestStatusOfTrust(t *testing.T) {
	peer := func(n byte) (p wire.PeerID) { p[0], p[32] = 2, n; return p }
	cid := func(s string) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte(s)) }
	st := &status{Status: node.Status{
		Role:     node.RoleValidator,
		Suspects: []node.Suspicion{{Peer: peer(1), Round: 7, Segment: 3, Why: "its norm is 0.1 times the median"}},
		Cases: []diloco.Case{{Subject: cid("work"), Peer: peer(2), Round: 6, Segment: 1, Opened: 9, Evidence: cid("evidence"),
			Pass: []wire.PeerID{peer(3)}, Wrong: []wire.PeerID{peer(4), peer(5)}}},
	}}
	got := statusText(st)
	for _, want := range []string{
		"suspect      …" + peer(1).Short() + ", round 7: its norm is 0.1 times the median (segment 3 is replayed for it)\n",
		"case         …" + peer(2).Short() + ", round 6, segment 1 of " + cid("work").Short() + ", open since round 9: 1 pass …" + peer(3).Short() +
			", 2 wrong …" + peer(4).Short() + " …" + peer(5).Short() + ", 0 withheld; see `shoal audit verify " + cid("evidence").String() + "`\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	b, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"suspects":[{"peer":"` + peer(1).String() + `","round":7,"segment":3,"why":`, `"opened":9`, `"wrong":["` + peer(4).String()} {
		if !strings.Contains(string(b), want) {
			t.Errorf("want %q in\n%s", want, b)
		}
	}
}

func TestStanding(t *testing.T) {
	for _, c := range []struct {
		st   node.Status
		want string
	}{
		{node.Status{Phase: node.FindingPeers}, "finding peers  0 peers  ↓ 0 B ↑ 0 B"},
		{node.Status{Phase: node.Syncing, Checkpoint: node.Transfer{Done: 5e6, Total: 20e6, Rate: 1e6}, Peers: 3}, "syncing 5.00 MB of 20.0 MB, 1.00 MB/s  3 peers  ↓ 0 B ↑ 0 B"},
		{node.Status{Phase: node.Syncing, Checkpoint: node.Transfer{Done: 5e8, Total: 2e9, Rate: 1e7, Base: true}, Peers: 3, Rounds: 30},
			"fetching the model that the run starts from: 500 MB of 2.00 GB, 10.0 MB/s  3 peers  ↓ 0 B ↑ 0 B"},
		{node.Status{Phase: node.Training, Round: 3, Rounds: 30, InnerStep: 7, InnerSteps: 20, Loss: 2.5, TokensPerS: 12000, Peers: 4, BytesIn: 1e6, BytesOut: 2e6},
			"round 3/30  training 7/20  loss 2.500  12.0k tok/s  4 peers  ↓ 1.00 MB ↑ 2.00 MB"},
		{node.Status{Phase: node.FindingPeers, Head: wire.SumCID(wire.CodecDagCBOR, []byte("genesis")), Rounds: 30, MinPeers: 4, Peers: 1}, "waiting for 4 trainers to begin  1 peers  ↓ 0 B ↑ 0 B"},
		{node.Status{Phase: node.FindingPeers, Rounds: 30, MinPeers: 4}, "round 0/30  finding peers  0 peers  ↓ 0 B ↑ 0 B"},
		{node.Status{Phase: node.Merging, Round: 3, Rounds: 30}, "round 3/30  merging  0 peers  ↓ 0 B ↑ 0 B"},
		{node.Status{Phase: node.Finished, Done: true, Round: 32, Rounds: 30, Loss: 2}, "round 30, the last: serving  0 peers  ↓ 0 B ↑ 0 B"},
	} {
		if got := standing(c.st); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

// Without a terminal, join prints what happened once, and how it stands rarely.
func TestJoinReport(t *testing.T) {
	var out, errw bytes.Buffer
	a := &app{out: &out, err: &errw}
	r := &joinReport{screen: a.screen(), started: time.Now().Add(-time.Minute)}
	commit := func(n byte) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte{n}) }
	st := node.Status{Phase: node.FindingPeers, Trouble: "prepare: nobody has it"}
	r.tell(st)
	r.tell(st)
	st = node.Status{Name: "moby", Run: commit(0), Phase: node.Training, Rounds: 2, Round: 1, Head: commit(1), Peers: 2, Roster: 3}
	r.tell(st)
	r.tell(st)
	st.Round, st.Head, st.Weak, st.FinalRound = 2, commit(2), true, 1
	r.tell(st)
	st.Round, st.Head, st.Done, st.Result = 3, commit(3), true, commit(2)
	r.tell(st)
	r.tell(st)
	for text, n := range map[string]int{
		"no peers yet": 1, "nobody has it": 1, "run moby": 1, "commit 1/2": 1, "commit 2/2": 1, "weak": 1, "final 1": 1, "commit 3/2": 0, "the run is over": 1, "shoal export moby": 1,
	} {
		if got := strings.Count(errw.String(), text); got != n {
			t.Errorf("%q is printed %d times, want %d:\n%s", text, got, n, errw.String())
		}
	}
	if out.Len() > 0 {
		t.Errorf("standard output is for scripts, got %q", out.String())
	}

	// Who leaves by itself serves nobody, and needs no Ctrl-C.
	if !strings.Contains(errw.String(), "Ctrl-C leaves") {
		t.Error(errw.String())
	}
	errw.Reset()
	(&joinReport{screen: a.screen(), started: time.Now(), once: true}).tell(st)
	if s := errw.String(); strings.Contains(s, "Ctrl-C") || strings.Contains(s, "serving") || !strings.Contains(s, "shoal export moby") || !strings.Contains(s, "leaving") {
		t.Error(s)
	}

	key, err := wire.NewKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	st.Peer = key.Peer()
	a.json = true
	r.tell(st)
	st.Phase = node.Waiting
	r.tell(st)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var got node.Status
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &got) != nil || got.Phase != node.Waiting {
		t.Errorf("JSON lines: %q", out.String())
	}
}

func TestMetrics(t *testing.T) {
	h := metrics(func() node.Status {
		return node.Status{Round: 7, BytesIn: 1234, Done: true, Rejections: map[string]uint64{"old round": 3}}
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		"# TYPE shoal_round gauge", "shoal_round 7\n", "# TYPE shoal_received_bytes_total counter", "shoal_received_bytes_total 1234\n",
		"shoal_done 1\n", `shoal_rejections_total{reason="old round"} 3`, "go_goroutines",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q in\n%.2000s", want, w.Body.String())
		}
	}
}
