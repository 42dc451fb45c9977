package diloco

import (
	"slices"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

// Who has done wrong work, or serves none of it, is convicted also where it leaves the
// roster first: by taking its stake back, whether before the accusation, after it, or
// once it is gone already; or stays and leaves out votes. Who serves, or is only away, is not.
func TestWithdrawnIsStillConvicted(t *testing.T) {
	const acts = 8 // the round of the first work that is wrong, or withheld
	for name, test := range map[string]struct {
		finding  Finding
		accusers int    // of four validators
		serves   uint64 // from this round on what was withheld is to be had; 0: never
		unbonds  uint64 // its stake is not on the ledger from this round on; 0: it stays
		restakes uint64
		silent   uint64 // it votes no more
		leaves   uint64
		skips    uint64 // it votes but in every so manieth round
		want     string
	}{
		"withholds, unbonds at once":               {finding: Withheld, accusers: 4, unbonds: acts, want: WhyWithheld},
		"withholds, unbonds when accused":          {finding: Withheld, accusers: 4, unbonds: acts + 3, want: WhyWithheld},
		"three of four cannot look":                {finding: Withheld, accusers: 3, unbonds: acts + 3, want: WhyWithheld},
		"withholds, leaves, unbonds":               {finding: Withheld, accusers: 4, leaves: acts + 1, unbonds: acts + 3, want: WhyWithheld},
		"withholds, falls silent, unbonds":         {finding: Withheld, accusers: 4, silent: acts + 1, unbonds: acts + 5, want: WhyWithheld},
		"withholds, unbonds, stakes, falls silent": {finding: Withheld, accusers: 4, unbonds: acts + 2, restakes: acts + 30, want: WhyWithheld},
		"wrong, unbonds":                           {finding: Wrong, accusers: 4, unbonds: acts, want: WhyWork},
		"wrong, leaves":                            {finding: Wrong, accusers: 4, leaves: acts + 1, want: WhyWork},
		"withholds and stays":                      {finding: Withheld, accusers: 4, want: WhyWithheld},
		"withholds, skips every third vote":        {finding: Withheld, accusers: 4, skips: 3, want: WhyWithheld},
		"skips votes, serves late":                 {finding: Withheld, accusers: 4, skips: 3, serves: acts + 6},
		"skips votes, two of four say so":          {finding: Withheld, accusers: 2, skips: 3},
		"serves late, has unbonded":                {finding: Withheld, accusers: 4, unbonds: acts + 2, serves: acts + 4},
		"two of four say so":                       {finding: Withheld, accusers: 2, unbonds: acts + 2},
		"unbonds, and serves":                      {finding: Pass, accusers: 4, unbonds: acts + 2},
		"is away, and has its stake":               {finding: Withheld, accusers: 4, silent: acts + 1},
		"leaves, and has its stake":                {finding: Withheld, accusers: 4, leaves: acts + 1},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{StopRound: 40, WindowsEach: 3, AuditRate: 10_000, AuditWindow: 4}
			var s *swarm
			var bad wire.PeerID
			round := func() uint64 {
				if s == nil || len(s.peers) == 0 {
					return 0
				}
				return s.peers[0].m.Status().Round
			}
			cfg.Stake = func(p wire.PeerID, _ string) Standing {
				if r := round(); p == bad && test.unbonds > 0 && r >= test.unbonds && (test.restakes == 0 || r < test.restakes) {
					return Unstaked
				}
				return Staked
			}
			s = watchedBy(t, cfg)
			sinner := s.peers[1]
			bad = sinner.key.Peer()
			for i, p := range s.peers[3:] {
				find := func(v Verdict) Verdict {
					switch {
					case v.Peer != bad || v.Round < acts || i >= test.accusers || test.finding == Pass || test.serves > 0 && round() >= test.serves:
						return v
					case test.finding == Withheld:
						return withheld(v)
					}
					v.Finding, v.Evidence = Wrong, v.Subject
					return v
				}
				p.finds = find
				p.replies = func(k Case) *Verdict {
					v := find(Verdict{Subject: k.Subject, Peer: k.Peer, Round: k.Round, Segment: k.Segment, Work: []byte{1}})
					return &v
				}
			}
			sinner.says = func(v Vote) *Vote {
				if test.silent > 0 && v.Round >= test.silent || test.skips > 0 && v.Round >= acts && v.Round%test.skips == 0 {
					return nil
				}
				return &v
			}
			left := false
			s.run(func() bool {
				if test.leaves > 0 && round() >= test.leaves && !left {
					left = true
					s.step(sinner, LeaveAsked{})
				}
				return !slices.ContainsFunc(s.peers, func(p *swarmPeer) bool { return p != sinner && p.m.Status().Round < 28 })
			})
			chain := s.verified()
			got, rounds := convictions(chain)
			switch {
			case test.want == "" && len(got) > 0:
				t.Errorf("%+v", got)
			case test.want == "":
			case len(got) != 1 || got[0].Peer != bad || got[0].Why != test.want || !got[0].Subject.Defined() || !got[0].Evidence.Defined():
				t.Errorf("convicted: %+v, want one of %s", got, test.want)
			case rounds[0] > acts+2*cfg.AuditWindow+2:
				t.Errorf("convicted in round %d", rounds[0])
			default:
				if m := memberIn(chain[rounds[0]].Roster, bad); m == nil || !m.Banned {
					t.Errorf("it may come back: %+v", m)
				}
			}
			last := chain[len(chain)-1]
			for i, p := range s.peers {
				if m := memberIn(last.Roster, p.key.Peer()); p != sinner && (m == nil || m.Banned) {
					t.Errorf("peer %d is out: %+v", i, m)
				}
			}
		})
	}
}
