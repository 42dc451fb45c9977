package diloco

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata; commit the changes only if you understand what caused them")

// TestScenarios plays the text scenarios of testdata on one machine, peer a's.
// Each paragraph is a command, ----, and what the machine answers.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := playAll(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("%s: the machine answers otherwise (-rewrite shows how in a diff):\n%s", file, firstDifference(string(text), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range g {
		if i >= len(w) || w[i] != g[i] {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, strings.Join(w[min(i, len(w)):min(i+4, len(w))], "\n     "), strings.Join(g[i:min(i+4, len(g))], "\n     "))
		}
	}
	return "want more"
}

// playAll plays a scenario and returns it with the answers of this machine.
func playAll(t *testing.T, text string) string {
	var out strings.Builder
	s := &scene{t: t, names: map[wire.CID]string{}, ids: map[string]wire.CID{}, commits: map[wire.CID]*Commit{}, messages: map[string]wire.Signed{}}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			if line != "" || i+1 < len(lines) {
				out.WriteString(line + "\n")
			}
			continue
		}
		out.WriteString(line + "\n----\n")
		for i+1 < len(lines) && lines[i+1] != "" {
			i++
		}
		s.out = nil
		s.play(line)
		for _, l := range s.out {
			out.WriteString(l + "\n")
		}
	}
	return out.String()
}

// A scene is one machine, and the words of the peers around it.
type scene struct {
	t        *testing.T
	m        *Machine
	cfg      Config
	now      time.Time
	genesis  *Commit
	names    map[wire.CID]string
	ids      map[string]wire.CID
	commits  map[wire.CID]*Commit
	messages map[string]wire.Signed // by "kind peer parent"
	own      []wire.Signed
	chain    []*Commit
	merge    Merge
	train    Train
	out      []string
	torn     bool
	stakes   string // of those who have one by a's ledger; "away" is no answer
}

func peerID(name string) wire.PeerID {
	var p wire.PeerID
	p[0] = 2
	copy(p[1:], name)
	copy(p[25:], name)
	return p
}

func peerName(p wire.PeerID) string { return strings.TrimRight(string(p[1:2]), "\x00") }

// call names a CID once and for all.
func (s *scene) call(id wire.CID, name string) {
	if _, ok := s.names[id]; ok {
		return
	}
	for s.ids[name].Defined() {
		name += "'"
	}
	s.names[id], s.ids[name] = name, id
}

func (s *scene) name(id wire.CID) string {
	if n, ok := s.names[id]; ok {
		return n
	}
	return "unknown"
}

func (s *scene) id(name string) wire.CID {
	id, ok := s.ids[name]
	if !ok {
		s.t.Fatalf("nothing is called %q yet", name)
	}
	return id
}

func (s *scene) noteCommit(c *Commit) wire.CID {
	id, err := c.CID()
	if err != nil {
		s.t.Fatal(err)
	}
	s.commits[id] = c
	s.call(id, fmt.Sprintf("C%d", c.Round))
	s.call(c.State, "S"+s.name(id)[1:])
	return id
}

// play carries out one command: a verb, names, and options like on=C1.
func (s *scene) play(line string) {
	fields := strings.Fields(line)
	verb, names, opt := fields[0], []string{}, map[string]string{}
	for _, f := range fields[1:] {
		if k, v, ok := strings.Cut(f, "="); ok {
			opt[k] = v
		} else {
			names = append(names, f)
		}
	}
	on := func() wire.CID {
		if n := opt["on"]; n != "" {
			return s.id(n)
		}
		return s.m.head.id
	}
	list := func(key string) []string {
		if opt[key] == "" {
			return nil
		}
		return strings.Split(opt[key], ",")
	}
	switch verb {
	case "new":
		s.begin(opt)
	case "join", "leave":
		for _, n := range names {
			j := &Join{Since: on(), Round: s.commits[on()].Round, Role: trainer, Leave: verb == "leave"}
			if opt["role"] == validator {
				j.Role, j.Coin = validator, testCoin(n).At(j.Round)
			}
			s.hear(n, wire.KindJoin, "", j)
		}
	case "delta":
		for _, n := range names {
			parent := s.commits[on()]
			d := &Delta{
				Parent: on(), Round: parent.Round, State: parent.State, Steps: 10, Tokens: 1000, Bytes: 10,
				Block: wire.SumCID(wire.CodecRaw, []byte(n+s.name(on())+opt["block"])),
			}
			if s.cfg.AuditRate > 0 && opt["trace"] != "none" {
				d.Trace = wire.SumCID(wire.CodecDagCBOR, []byte(d.Block))
			}
			if v := opt["tokens"]; v != "" {
				d.Tokens = uint64(s.number(v))
			}
			s.hear(n, wire.KindDelta, on(), d)
		}
	case "checked":
		for _, n := range names {
			msg := s.messages["delta "+n+" "+string(on())]
			ev := DeltaChecked{ID: msg.ID()}
			if opt["err"] != "" {
				ev.Err, ev.Final = fmt.Errorf("%s", opt["err"]), opt["err"] == "bad"
			}
			s.step(ev)
		}
	case "vote":
		for _, n := range names {
			final := s.m.final
			v := &Vote{Parent: on(), Round: s.commits[on()].Round, Final: final.id, FinalRound: final.round}
			if f := opt["final"]; f != "" {
				v.Final, v.FinalRound = s.id(f), s.commits[s.id(f)].Round
			}
			if e := memberIn(s.commits[on()].Roster, peerID(n)); e != nil && opt["coin"] != "none" {
				cfg := s.cfg.withDefaults()
				if round, due := e.due(&cfg, s.commits[on()]); due {
					v.Coin = testCoin(n).Reveal(round)
				}
			}
			for _, d := range list("deltas") {
				p, parent, late := strings.Cut(d, "@")
				at := on()
				if late {
					at = s.id(parent)
				}
				msg := s.messages["delta "+p+" "+string(at)]
				v.Deltas = append(v.Deltas, msg.ID())
			}
			for _, j := range list("joins") {
				msg := s.messages["join "+j+" "]
				v.Joins = append(v.Joins, msg.ID())
			}
			for _, text := range list("verdicts") {
				msg, ok := s.messages["verdict "+strings.Replace(text, ":", " ", 1)] // v:t@C1
				if !ok {
					s.t.Fatalf("%s: no verdict %q", line, text)
				}
				v.Verdicts = append(v.Verdicts, msg.ID())
			}
			slices.Sort(v.Verdicts)
			for _, p := range list("evict") {
				v.Evict = append(v.Evict, peerID(p))
			}
			for _, p := range list("unstaked") {
				v.Unstaked = append(v.Unstaked, peerID(p))
			}
			slices.Sort(v.Deltas)
			slices.Sort(v.Joins)
			s.hear(n, wire.KindVote, on(), v)
		}
	case "verdict": // verdict b wrong of=c@C1: heard; of a's own audit where b is a
		v := s.verdict(names[0], names[1], opt)
		if names[0] == "a" {
			s.step(Audited{*v})
			break
		}
		s.hear(names[0], wire.KindVerdict, wire.CID(opt["of"]), v)
	case "attest":
		for _, n := range names {
			head, src := s.id(opt["head"]), s.id(opt["source"])
			s.hear(n, wire.KindAttest, head, &Attest{Head: head, Round: s.commits[head].Round, Source: src, SourceRound: s.commits[src].Round})
		}
	case "build": // a commit of the votes of these peers, which others have made
		s.build(names, on())
	case "fetched":
		for _, n := range names {
			ev := CommitFetched{CID: s.id(n), Commit: s.commits[s.id(n)]}
			if opt["err"] != "" {
				ev.Commit, ev.Err = nil, fmt.Errorf("%s", opt["err"])
			}
			s.step(ev)
		}
	case "state":
		s.step(StateFetched{State: s.commits[s.id(names[0])].State})
	case "merged":
		ev := Merged{Key: s.merge.Key, State: testMerge(s.merge)}
		if opt["err"] != "" {
			ev.State, ev.Err = "", fmt.Errorf("%s", opt["err"])
		}
		s.step(ev)
	case "trained":
		d := Delta{
			Parent: s.train.Head, Round: s.train.Round, State: s.train.State, Steps: 10, Tokens: 1000, Bytes: 10,
			Block: wire.SumCID(wire.CodecRaw, []byte("a"+s.name(s.train.Head))),
		}
		if s.cfg.AuditRate > 0 && opt["trace"] != "none" {
			d.Trace = wire.SumCID(wire.CodecDagCBOR, []byte(d.Block))
		}
		if v := opt["steps"]; v != "" {
			d.Steps = uint64(s.number(v))
		}
		s.step(Trained{d})
	case "after":
		d, err := time.ParseDuration(names[0])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
		s.step(Tick{})
	case "wake":
		w := s.m.Wake()
		if w.IsZero() {
			s.t.Fatal("no wake-up")
		}
		s.say("after %v", w.Sub(s.now))
		s.now = w
		s.step(Tick{})
	case "leaving":
		s.step(LeaveAsked{})
	case "ledger": // from now on it says that these have stake
		s.stakes = names[0]
	case "torn": // from now on what is signed is journaled, and the machine dies before it hears
		s.torn = true
	case "restart":
		s.torn = false
		s.m = New(s.cfg, s.genesis)
		s.perform(s.m.Restore(s.now, s.chain, s.own))
	case "status":
		s.status()
	default:
		s.t.Fatalf("no command %q", verb)
	}
}

func (s *scene) number(v string) int {
	n, err := strconv.Atoi(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *scene) begin(opt map[string]string) {
	s.genesis = testGenesis()
	s.now = time.Unix(1_800_000_000, 0)
	s.cfg = Config{
		Run: s.genesis.Run, Self: peerID("a"), Role: "trainer", MinPeers: 3, Deadline: time.Minute,
		Verify: func(*wire.Signed) error { return nil },
	}
	for k, v := range opt {
		switch k {
		case "min":
			s.cfg.MinPeers = s.number(v)
		case "stop":
			s.cfg.StopRound = uint64(s.number(v))
		case "leak":
			s.cfg.LeakAfter = uint64(s.number(v))
		case "drop":
			s.cfg.DropAfter = uint64(s.number(v))
		case "late":
			s.cfg.LateRounds = uint64(s.number(v))
		case "role":
			s.cfg.Role = v
			if v == validator {
				s.cfg.Coin = testCoin("a")
			}
		case "rate":
			s.cfg.AuditRate = uint64(s.number(v))
		case "window":
			s.cfg.AuditWindow = uint64(s.number(v))
		case "stake":
			s.stakes = v
			s.cfg.Stake = func(p wire.PeerID, _ string) Standing {
				switch {
				case s.stakes == "away":
					return Unknown
				case strings.Contains(s.stakes, peerName(p)):
					return Staked
				}
				return Unstaked
			}
		default:
			s.t.Fatalf("no option %q", k)
		}
	}
	s.m = New(s.cfg, s.genesis)
	s.noteCommit(s.genesis)
	s.perform(s.m.Start(s.now))
}

// sign makes a message of a peer; its signature is no signature.
func (s *scene) sign(peer string, kind wire.Kind, about wire.CID, body any) wire.Signed {
	b, err := wire.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	msg := wire.Signed{Kind: kind, Run: s.cfg.Run, From: peerID(peer), Body: b, Sig: make([]byte, 65)}
	s.messages[kind.String()+" "+peer+" "+string(about)] = msg
	return msg
}

func (s *scene) hear(peer string, kind wire.Kind, about wire.CID, body any) {
	s.step(Heard{s.sign(peer, kind, about, body)})
}

func (s *scene) step(ev Event) { s.perform(s.m.Step(s.now, ev)) }

// build assembles a commit of votes that the scene knows.
func (s *scene) build(voters []string, parent wire.CID) {
	a := assembly{cfg: &s.m.cfg, parent: s.commits[parent], parentID: parent, past: func(id wire.CID) *Commit { return s.commits[id] }}
	slices.Sort(voters)
	for _, v := range voters {
		msg := s.messages["vote "+v+" "+string(parent)]
		m, err := Open(&msg)
		if err != nil {
			s.t.Fatal(err)
		}
		a.votes = append(a.votes, m)
	}
	a.envelope = func(id wire.CID) *Message {
		for _, msg := range s.messages {
			if msg.ID() == id {
				m, err := Open(&msg)
				if err != nil {
					s.t.Fatal(err)
				}
				return m
			}
		}
		return nil
	}
	c, err := a.assemble()
	if err != nil || len(a.missing) > 0 {
		s.t.Fatal(err, a.missing)
	}
	c.State = testMerge(Merge{State: s.commits[parent].State, Parent: parent, Round: c.Round, Deltas: a.merged})
	s.say("%s: %s", s.name(s.noteCommit(c)), s.describe(c))
}

func (s *scene) say(format string, args ...any) {
	s.out = append(s.out, fmt.Sprintf(format, args...))
}

// perform writes down effects, and hands own messages back as the shell does.
func (s *scene) perform(list []Effect) {
	var echo []wire.Signed
	for _, e := range list {
		switch e := e.(type) {
		case Sign:
			msg := wire.Signed{Kind: e.Kind, Run: s.cfg.Run, From: s.cfg.Self, Body: e.Body, Sig: make([]byte, 65)}
			s.own = append(s.own, msg)
			echo = append(echo, msg)
			s.say("sign %s", s.word(&msg))
		case Publish:
			s.say("publish %s", s.word(&e.Msg))
		case FetchDelta:
			s.say("fetch delta of %s on %s from %s", peerName(e.Peer), s.name(e.Delta.Parent), peerNames(e.From))
		case FetchCommit:
			s.say("fetch commit %s from %s", s.name(e.CID), peerNames(e.From))
		case FetchState:
			s.say("fetch state %s from %s", s.name(e.State), peerNames(e.From))
		case Merge:
			s.merge = e
			work := ""
			for _, d := range slices.SortedFunc(slices.Values(e.Deltas), func(a, b Weighted) int { return a.Peer.Compare(b.Peer) }) {
				work += fmt.Sprintf(" %s@%s:%d", peerName(d.Peer), s.name(d.Parent), d.Weight)
			}
			s.say("merge on %s:%s", s.name(e.Parent), work)
		case Store:
			s.noteCommit(e.Commit)
			s.say("store %s: %s", s.name(e.CID), s.describe(e.Commit))
		case Adopt:
			s.chain = append(s.chain, e.Commit)
			s.say("adopt %s", s.name(e.Head))
		case Train:
			s.train = e
			s.say("train %s, slot %d of %d", s.name(e.Head), e.Slot, e.Slots)
		case Cut:
			s.say("cut %s, late %v", s.name(e.Head), e.Late)
		case Included:
			s.say("included %s", s.name(e.ID))
		case Expired:
			s.say("expired %s", s.name(e.ID))
		case Finalized:
			s.say("final %s", s.name(e.CID))
		case Convicted:
			s.say("convicted %s of two %ss", peerName(e.Peer), e.Evidence.A.Kind)
		case Done:
			s.say("done %s", s.name(e.CID))
		}
	}
	if s.torn {
		return
	}
	for _, msg := range echo {
		s.step(Heard{msg})
	}
}

func (s *scene) status() {
	st := s.m.Status()
	s.say("%s at %s, justified %s, final %s, deltas %d, votes %d, member %v", st.Phase, s.name(st.Head), s.name(st.Justified), s.name(st.Final), st.Deltas, st.Votes, st.Member)
	for _, why := range slices.Sorted(maps.Keys(st.Rejected)) {
		s.say("rejected: %s %d", why, st.Rejected[why])
	}
}
