package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/settle"
	"github.com/shoalnet/shoal/chain/settle/settletest"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/p2p/wire"
)

// The whole story: epochs are derived, proposed, signed and final by signatures;
// the convicted is slashed after the time to appeal; the honest are paid, shares
// minted, the books balanced at every second.
func TestEpochsSettleAndTheConvictedIsSlashed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 2, 20)
		dir := t.TempDir()
		a, _ := w.start(3, dir)
		w.start(4, t.TempDir())
		follower, _ := w.start(0, t.TempDir())
		cheated := false
		w.seconds(140, func(e uint64) {
			if e >= 2 && !cheated {
				w.s.Ban(1, diloco.WhySilent) // it earns for what it did, and keeps its stake
				w.s.Ban(2, "wrong work")
				cheated = true
			}
			w.round(e)
		})
		synctest.Wait()
		if f := w.final(); f.Epoch < 4 {
			t.Fatalf("epoch %d is final, want 4 at least; %+v", f.Epoch, a.Status())
		}
		w.settledInPeace()
		earned := w.claimAll(dir)
		if num(earned[w.at(2)]).Sign() != 0 {
			t.Errorf("the convicted earned %s", earned[w.at(2)])
		}
		if num(earned[w.at(1)]).Sign() == 0 || num(earned[w.at(0)]).Cmp(num(earned[w.at(1)])) <= 0 || num(earned[w.at(3)]).Sign() == 0 {
			t.Errorf("earned: %v", earned)
		}
		// The same lines at a peer that only follows.
		fs, err := Epochs(dir)
		gs, err2 := Epochs(follower.opt.Dir)
		if err != nil || err2 != nil || fmt.Sprint(fs[0].Lines) != fmt.Sprint(gs[0].Lines) {
			t.Errorf("a follower derives other lines (%v, %v)", err, err2)
		}
		why := ""
		for _, l := range fs[0].Lines {
			if l.Account == w.at(2) {
				why = l.Why
			}
		}
		if want := "convicted in round "; len(why) < len(want) || why[:len(want)] != want {
			t.Errorf("why the convicted earns nothing: %q", why)
		}
		st := a.Status()
		if len(st.Slashed) != 1 || !st.Slashed[0].Slashed || st.Slashed[0].Amount.Cmp(chain.Coins(300)) != 0 {
			t.Errorf("status: %+v", st.Slashed)
		}
	})
}

// Nobody may propose or sign an epoch that began before any validator had stake. Work in it is not paid, and
// everybody is told why; the ledger goes on to the next one.
func TestAnEpochBeforeAnyStakeIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 2, 20)
		validators := w.s.Keys[3:5]
		for _, k := range validators {
			w.do(k, chain.Unbond{Role: chain.Validator, Amount: chain.Coins(1000)})
		}
		dir := t.TempDir()
		w.start(3, dir)
		w.start(4, t.TempDir())
		w.seconds(firstEpoch+10, w.round)
		for _, k := range validators {
			w.do(k, chain.Stake{Role: chain.Validator, Amount: chain.Coins(1000)})
		}
		w.seconds(100, w.round)
		synctest.Wait()
		if f := w.final(); f.Epoch < 4 {
			t.Fatalf("epoch %d is final, want 4 at least", f.Epoch)
		}
		fs, err := Epochs(dir)
		if err != nil || len(fs) < 2 || fs[0].Number != 1 || fs[0].Settled != nil || fs[1].Settled == nil {
			t.Fatalf("epochs: %+v, %v", fs, err)
		}
		told := 0
		for _, l := range fs[0].Lines {
			if l.Amount.Sign() != 0 || l.Why == "" {
				t.Errorf("%s of %s in epoch 1: %s, %q", l.Kind, l.Account, l.Amount, l.Why)
			}
			if strings.Contains(l.Why, "no validator had stake") {
				told++
			}
		}
		if told == 0 {
			t.Error("nobody is told why epoch 1 is not paid")
		}
	})
}

// A peer that has contradicted itself loses its stake once: by its two messages, where
// the ledger understands them, even if but one validator has them; and else by the
// validators' signatures.
func TestEquivocatorIsSlashedOnce(t *testing.T) {
	for _, c := range []struct {
		name  string
		kind  wire.Kind
		known []int  // to these validators
		event string // by which it is slashed
	}{
		{"two votes", wire.KindVote, []int{3, 4}, "Equivocated"},
		{"two votes that one has heard", wire.KindVote, []int{4}, "Equivocated"},
		{"two verdicts", wire.KindVerdict, []int{3, 4}, "ConvictionClosed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, 2, 20)
				var e diloco.Evidence
				for i, m := range []*wire.Signed{&e.A, &e.B} {
					var body any = &diloco.Vote{Parent: settletest.CID("p"), Round: 3, Final: settletest.CID("p"), FinalRound: uint64(i)}
					if c.kind == wire.KindVerdict {
						body = &diloco.Verdict{Subject: settletest.CID("p"), Peer: w.s.Keys[0].Peer(), Round: 3, Finding: diloco.Finding(i)}
					}
					b, err := wire.Marshal(body)
					if err != nil {
						t.Fatal(err)
					}
					*m = w.s.Keys[2].Sign(c.kind, w.s.Params.Run, b)
				}
				var a *Agent
				for _, i := range []int{3, 4} {
					a, _ = w.start(i, t.TempDir(), func(o *Options) {
						o.Evidence = func(p wire.PeerID) (diloco.Evidence, bool) {
							return e, p == w.s.Keys[2].Peer() && slices.Contains(c.known, i)
						}
					})
				}
				banned := false
				w.seconds(140, func(epoch uint64) {
					if epoch >= 2 && !banned {
						w.s.Ban(2, diloco.WhyEquivocation)
						banned = true
					}
					w.round(epoch)
				})
				synctest.Wait()
				if got := w.stake(2); got.Cmp(chain.Coins(500)) != 0 {
					t.Errorf("the equivocator has %s at stake, want 500", chain.FormatAmount(got))
				}
				for _, name := range []string{"Equivocated", "Convicted", "ConvictionClosed"} {
					want := 0
					if name == c.event || name == "Convicted" && c.event == "ConvictionClosed" {
						want = 1
					}
					if n := len(w.events(name)); n != want {
						t.Errorf("%d events %s, want %d", n, name, want)
					}
				}
				st := a.Status()
				if len(st.Slashed) != 1 || !st.Slashed[0].Slashed || st.Slashed[0].Amount.Cmp(chain.Coins(500)) != 0 {
					t.Errorf("status: %+v", st.Slashed)
				}
			})
		})
	}
}

// A wrong proposal is challenged and its proposer slashed; then the right one
// is proposed. Nobody types anything.
func TestWrongProposalsAreChallenged(t *testing.T) {
	for name, c := range map[string]struct {
		lie    func(x *chain.Settled, liar chain.Address)
		leaves bool // the liar publishes them
		event  string
	}{
		"wrong amounts, before the committee": {func(x *chain.Settled, liar chain.Address) {
			i := x.Find(liar)
			j := (i + 1) % len(x.Rewards)
			x.Rewards[i].Amount, x.Rewards[j].Amount = add(x.Rewards[i].Amount, chain.Int(1)), sub(x.Rewards[j].Amount, chain.Int(1))
			total := chain.Int(0)
			for k := range x.Rewards {
				x.Rewards[k].Before, total = total, add(total, x.Rewards[k].Amount)
			}
		}, true, "CaseOpened"},
		"leaves withheld": {func(x *chain.Settled, liar chain.Address) { x.Entries = x.Entries[1:] }, false, "CaseOpened"},
		"a receipt twice, by a proof": {func(x *chain.Settled, liar chain.Address) {
			x.Entries = append(x.Entries, x.Entries[0])
			x.Entries[len(x.Entries)-1].Index = uint64(len(x.Entries) - 1)
		}, true, "Rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2, 3, 20)
				dir := t.TempDir()
				liar := w.s.Keys[4]
				me := chain.AddressOf(liar)
				w.do(liar, chain.Approve{Spender: chain.Settlement, Amount: chain.Unlimited()})
				w.do(liar, chain.DepositBond{Amount: w.cfg.Bond})
				follower, _ := w.start(0, dir)
				out := w.topic()
				elapsed := 0
				var lying *Agent
				var lie *chain.Settled
				var file wire.CID
				// The liar knows what is right before the others propose it.
				for w.final().Epoch == 0 && len(w.events("Proposed")) == 0 {
					if w.seconds(1, nil); elapsed%4 == 3 {
						w.now(w.round)
					}
					elapsed++
					o := w.options(4, t.TempDir())
					a, err := New(o)
					if err != nil {
						t.Fatal(err)
					}
					if err := errors.Join(a.follow(t.Context()), a.ask(t.Context())); err != nil {
						t.Fatal(err)
					}
					if a.next == nil || len(w.events("Proposed")) > 0 {
						continue
					}
					x := a.next.outcome.Settled
					total := x.Epoch.Total
					c.lie(x, me)
					if err := x.Seal(w.s.Params.Book); err != nil {
						t.Fatal(err)
					}
					x.Epoch.Total = total
					if c.leaves {
						file = a.publish(t.Context(), x)
						a.opt.Topic = out
					}
					lying, lie = a, x
					w.do(liar, chain.Propose{Epoch: x.Epoch})
				}
				w.start(2, t.TempDir())
				w.start(3, t.TempDir())
				if c.leaves { // they hear what was said before, as gossip repeats it
					time.Sleep(time.Second)
					lying.tallies = map[chain.Hash]map[chain.Address]tally{}
					if err := lying.sign(t.Context(), w.ledger.Book().EpochDigest(&lie.Epoch), file); err != nil {
						t.Fatal(err)
					}
				}
				w.seconds(120, func(e uint64) { w.round(e) })
				synctest.Wait()
				if len(w.events(c.event)) == 0 {
					t.Errorf("no %s", c.event)
				}
				if c.event == "Rejected" && len(w.events("CaseOpened")) > 0 {
					t.Error("a proof would have done, and the committee was asked")
				}
				r := w.events("Rejected")
				if len(r) != 1 || !r[0].Guilty || r[0].Account != me {
					t.Fatalf("rejected: %+v", r)
				}
				if got := w.stake(4); got.Cmp(chain.Coins(700)) != 0 {
					t.Errorf("the liar has %s at stake, want 700", chain.FormatAmount(got))
				}
				if w.final().Epoch == 0 {
					t.Errorf("nothing was settled after it: %+v", follower.Status())
				}
				w.claimAll(dir)
			})
		})
	}
}

// An epoch that is proposed before its commits are final cannot be judged yet.
// Nobody may use that to slip a wrong one through the window.
func TestAnEarlyProposalIsNotWavedThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, 3, 20)
		liar := w.s.Keys[4]
		me := chain.AddressOf(liar)
		w.do(liar, chain.Approve{Spender: chain.Settlement, Amount: chain.Unlimited()})
		w.do(liar, chain.DepositBond{Amount: w.cfg.Bond})
		w.start(2, t.TempDir())
		w.start(3, t.TempDir())
		w.seconds(51, func(e uint64) { // into the second epoch; the first is not closed yet
			if e < 2 {
				w.round(e)
			}
		})
		x := &chain.Settled{Epoch: chain.Epoch{Run: w.s.Params.ID, Number: 1, Commit: chain.Hash{1}, Amounts: [4]chain.Amount{chain.Int(0), chain.Int(0), chain.Coins(20), chain.Int(0)}},
			Rewards: chain.Rewards(map[chain.Address]chain.Amount{me: chain.Coins(20)}),
			Entries: []chain.Entry{w.s.Params.Book.SignReceipt(liar, chain.Receipt{Run: w.s.Params.ID, Epoch: 1, Kind: chain.Validation, Units: 1})}}
		if err := x.Seal(w.s.Params.Book); err != nil {
			t.Fatal(err)
		}
		w.do(liar, chain.Propose{Epoch: x.Epoch})
		w.seconds(int(w.cfg.Params.ChallengeWindow)+2, nil) // the whole window, without a commit
		if len(w.events("CaseOpened")) != 1 {
			t.Fatal("nobody has objected")
		}
		w.seconds(160, w.round)
		synctest.Wait()
		for _, e := range w.events("Finalized") {
			if e.Hash == x.Epoch.Rewards {
				t.Fatal("the wrong epoch became final")
			}
		}
		if w.final().Epoch < 2 {
			t.Errorf("epoch %d is settled", w.final().Epoch)
		}
		for _, i := range []int{2, 3} {
			if got := w.stake(i); got.Cmp(chain.Coins(1000)) != 0 {
				t.Errorf("honest validator %d has %s at stake", i, chain.FormatAmount(got))
			}
		}
	})
}

// Who has unbonded all of its stake before it is convicted loses its part of what is on its way out.
func TestUnbondedConvictIsSlashed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, 2, 20)
		for i := range 2 {
			w.start(3+i, t.TempDir())
		}
		w.seconds(50, w.round)
		w.do(w.s.Keys[2], chain.Unbond{Role: chain.Trainer, Amount: chain.Coins(1000)})
		w.seconds(10, w.round)
		w.now(func(uint64) { w.s.Ban(2, diloco.WhyWithheld) })
		w.seconds(60, w.round)
		s, err := w.ledger.StakeOf(w.ctx, w.at(2), chain.Trainer)
		if err != nil || num(s.Active).Sign() != 0 || s.Slashable().Cmp(chain.Coins(950)) != 0 {
			t.Errorf("%s is active and %s is left, want none and 950: %v", chain.FormatAmount(num(s.Active)), chain.FormatAmount(s.Slashable()), err)
		}
		if n := len(w.events("ConvictionClosed")); n != 1 {
			t.Errorf("slashed %d times", n)
		}
	})
}

func TestJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1, 20)
		a, _ := w.start(1, t.TempDir())
		w.s.Round(0)
		w.seconds(2, nil)
		say := func(i int, kind wire.Kind, run wire.CID, tl any) []byte {
			b, err := wire.Marshal(tl)
			if err != nil {
				t.Fatal(err)
			}
			m := w.s.Keys[i].Sign(kind, run, b)
			data, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		good := func(i int) *Tally {
			h := chain.Hash{1}
			return &Tally{What: h, Sig: chain.SignDigest(w.s.Keys[i], h)}
		}
		run := w.s.Params.Run
		for name, c := range map[string]struct {
			data []byte
			want wire.Judgement
		}{
			"a validator's":         {say(1, wire.KindTally, run, good(1)), wire.Accept},
			"a trainer's":           {say(0, wire.KindTally, run, good(0)), wire.Ignore},
			"another's signature":   {say(1, wire.KindTally, run, good(0)), wire.Reject},
			"of another kind":       {say(1, wire.KindVote, run, good(1)), wire.Reject},
			"about another run":     {say(1, wire.KindTally, settletest.CID("other"), good(1)), wire.Reject},
			"of another form":       {say(1, wire.KindTally, run, &diloco.Attest{}), wire.Reject},
			"a signature too short": {say(1, wire.KindTally, run, &Tally{Sig: []byte{1}}), wire.Reject},
			"garbage":               {[]byte("garbage"), wire.Reject},
			"too long":              {make([]byte, 5000), wire.Reject},
		} {
			if got := a.Judge(t.Context(), wire.PeerID{}, c.data); got != c.want {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	})
}

func FuzzTally(f *testing.F) {
	k, err := wire.NewKey(slices.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	run := settletest.CID("run")
	b, err := wire.Marshal(&Tally{What: chain.Hash{1}, Sig: chain.SignDigest(k, chain.Hash{1})})
	if err != nil {
		f.Fatal(err)
	}
	m := k.Sign(wire.KindTally, run, b)
	data, err := m.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	a := &Agent{opt: Options{Params: settle.Params{Run: run}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := a.open(data)
		if err == nil && len(h.tally.Sig) != 65 {
			t.Fatal("a tally without a signature was taken")
		}
	})
}
