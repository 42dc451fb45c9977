package node

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// A trainer that serves no audit material takes its stake back when it is accused, and is
// removed from the roster for that: it is convicted all the same. One that goes as
// honestly as it came is not, since it serves what it is asked for.
// Nor does it help to refuse each time only after nearly as long as validators wait, where
// rounds could be short.
func TestWithdrawnTrainers(t *testing.T) {
	for _, test := range []struct {
		honest, short bool
		window        uint64
	}{{false, false, 6}, {true, false, 6}, {false, true, 8}, {true, true, 8}} {
		honest := test.honest
		synctest.Test(t, func(t *testing.T) {
			var gone atomic.Bool
			leaver := testKey(t, 2).Peer()
			j := newJury(t, 4, 3, func(m *manifest.Manifest) {
				m.Admission.Kind, m.Admission.MinStake = "stake", "5"
				m.Stop.Rounds, m.Verification.AuditRate, m.Verification.Window = 40, 6000, test.window
			}, func(m *member) {
				old := m.opt
				m.opt = func(o *Options) {
					if old != nil {
						old(o)
					}
					o.Stake = func(p wire.PeerID, _ bool) diloco.Standing {
						if p == leaver && gone.Load() {
							return diloco.Unstaked
						}
						return diloco.Staked
					}
				}
				if test.short {
					m.engine.speed = time.Millisecond
				}
				if m.n == 2 && !honest {
					size := 8 + 8*m.engine.n
					m.shelf.serves = func(_ wire.CID, b []byte) bool {
						if len(b) == size && test.short {
							<-time.After(audit.Asking - 100*time.Millisecond)
						}
						return len(b) != size
					}
				}
			})
			others := []int{0, 1, 3, 4, 5, 6}
			j.until("accused, or well under way", 20*time.Minute, func(st Status) bool {
				return honest && st.Round >= 5 || slices.ContainsFunc(st.Cases, func(k diloco.Case) bool { return k.Peer == leaver })
			}, 0)
			gone.Store(true)
			j.until("removed", 20*time.Minute, func(st Status) bool { return st.Roster == 6 }, others...)
			at := j.members[0].node.Status().Round
			if st := j.members[2].node.Status(); !strings.Contains(st.Trouble, "keep it running") {
				t.Errorf("who was removed is not told: %q", st.Trouble)
			}
			if honest {
				j.until("past any case", 20*time.Minute, round(at+10), others...)
				chain := j.members[4].chain(j.members[4].node.Status().Head)
				if got := convicted(chain); len(got) > 0 {
					t.Errorf("convicted: %+v", got)
				}
				after := 0 // audits of its work that began when it was gone
				for _, c := range chain {
					for i := range c.Verdicts {
						m, err := diloco.Open(&c.Verdicts[i])
						if err != nil {
							t.Fatal(err)
						}
						if v := m.Body.(*diloco.Verdict); v.Peer == leaver && c.Round > at && v.Finding == diloco.Pass {
							after++
						}
					}
				}
				t.Logf("%d audits of its work passed after it was removed in round %d", after, at)
				return
			}
			j.until("convicted", 20*time.Minute, func(st Status) bool { return slices.Contains(st.Banned, leaver) }, others...)
			st := j.members[4].node.Status()
			got := convicted(j.members[4].chain(st.Head))
			if len(got) != 1 || got[leaver].Why != diloco.WhyWithheld {
				t.Errorf("convicted: %+v", got)
			}
			t.Logf("removed by round %d, banned by round %d", at, st.Round)
		})
	}
}
