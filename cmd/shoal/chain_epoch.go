package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

// maxEpochFile bounds a file of receipts or of an epoch, in bytes.
const maxEpochFile = 512 << 20

func (a *app) epochCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "epoch",
		Short: "Propose, sign, challenge or finalize what came out of an epoch",
		Long: `An epoch's file holds everything that its two roots stand for: every reward and
every signed receipt. A proposer makes it from the receipts and publishes it;
anyone recomputes it and challenges what is wrong.`,
		Example: `  shoal epoch propose --help
  shoal epoch sign epoch.json --into approvals.json
  shoal epoch challenge epoch.json
  shoal epoch finalize epoch.json`,
	}, a.epochProposeCmd(), a.epochSignCmd(), a.epochChallengeCmd(), a.epochFinalizeCmd())
}

func readEpoch(name string) (*chain.Settled, error) {
	b, err := readBounded(name, maxEpochFile)
	if err != nil {
		return nil, fmt.Errorf("epoch: %w", err)
	}
	x := new(chain.Settled)
	if err := hf.Unmarshal(b, x); err != nil {
		return nil, advise(fmt.Errorf("epoch: %s: %w", name, err), "give the file that `shoal epoch propose` has written")
	}
	if x.Epoch.Total == nil || len(x.Rewards) == 0 || len(x.Entries) == 0 {
		return nil, fmt.Errorf("epoch: %s holds no rewards or no receipts: the file is not one of `shoal epoch propose`", name)
	}
	for i, r := range x.Rewards {
		if r.Amount == nil || r.Before == nil {
			return nil, fmt.Errorf("epoch: %s: rewards[%d] has no amount", name, i)
		}
	}
	return x, nil
}

// seal rebuilds the trees and says whether they are those of the epoch's roots.
func seal(x *chain.Settled, b chain.Book) (same bool, err error) {
	said := x.Epoch
	if err := x.Seal(b); err != nil {
		return false, err
	}
	same = x.Epoch.Rewards == said.Rewards && x.Epoch.Receipts == said.Receipts && x.Epoch.Accounts == said.Accounts && x.Epoch.Count == said.Count
	x.Epoch = said
	return same, nil
}

// basis is what epoch number of a run is computed from, by the ledger's word.
func (t *teller) basis(ctx context.Context, run chain.Hash, number uint64, commit chain.Hash, previous string) (chain.Basis, error) {
	b := chain.Basis{Book: t.where.Book, Run: run, Number: number, Commit: commit}
	r, err := t.ledger.Run(ctx, run)
	if err != nil {
		return b, err
	}
	b.Sponsor, b.Pool = r.Sponsor, r.Pool
	if b.Rate, err = t.ledger.RateAt(ctx, run, number); err != nil {
		return b, err
	}
	final, err := t.ledger.Final(ctx, run)
	if err != nil {
		return b, err
	}
	if final.Epoch > 0 {
		if previous == "" {
			return b, usagef("epoch %d is final: give its file with --previous, since rewards are cumulative", final.Epoch)
		}
		x, err := readEpoch(previous)
		if err != nil {
			return b, err
		}
		if same, err := seal(x, t.where.Book); err != nil || !same || x.Epoch.Rewards != final.Rewards {
			return b, errors.Join(fmt.Errorf("%s is not the file of epoch %d, the last that is final", previous, final.Epoch), err)
		}
		b.Before = map[chain.Address]chain.Amount{}
		for _, w := range x.Rewards {
			b.Before[w.Account] = w.Amount
		}
	}
	begin, end := r.Span(number)
	keys := map[chain.Address]chain.KeyInfo{}
	b.Owner = func(k chain.Address) (chain.Address, bool) {
		i, ok := keys[k]
		if !ok {
			var err error
			if i, err = t.ledger.Key(ctx, k); err != nil {
				t.failed = errors.Join(t.failed, err) // nobody is unregistered because a node is down
				return chain.Address{}, false
			}
			keys[k] = i
		}
		return i.Owner, i.Served(begin, end)
	}
	return b, nil
}

func (a *app) epochProposeCmd() *cobra.Command {
	var f chainFlags
	var receipts, previous, commit, out, sponsor string
	var number uint64
	c := &cobra.Command{
		Use:   "propose RUN",
		Short: "Compute an epoch from receipts, and propose it with a bond",
		Long: `--receipts is a JSON array of signed receipts. Those that nobody may pay (a bad
signature, a key that was not registered, a duplicate) are left out and named.
The epoch's file is written to --out: publish it, or the bond is lost when
somebody asks for a leaf.`,
		Example: "  shoal epoch propose run.yaml --number 3 --receipts receipts.json --previous epoch2.json --commit bafy… --out epoch3.json",
		Args:    exactly("RUN"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			if receipts == "" || commit == "" || number == 0 {
				return usageError{errors.New("--receipts, --commit and --number from 1 on are needed"), "see `shoal epoch propose --help`"}
			}
			run, err := t.runOf(args[0], sponsor)
			if err != nil {
				return err
			}
			if old, err := readEpoch(out); err == nil && (old.Epoch.Run != run || old.Epoch.Number != number) {
				return advise(fmt.Errorf("%s holds epoch %d of run %s: whoever proposed it loses its bond without the file", out, old.Epoch.Number, old.Epoch.Run), "name another file with --out")
			}
			raw, err := readBounded(receipts, maxEpochFile)
			if err != nil {
				return fmt.Errorf("receipts: %w", err)
			}
			var es []chain.Entry
			if err := hf.Unmarshal(raw, &es); err != nil {
				return advise(fmt.Errorf("receipts: %s: %w", receipts, err), "give a JSON array of signed receipts")
			}
			cid, err := wire.ParseCID(commit)
			if err != nil {
				return usagef("--commit: %v", err)
			}
			d, err := chain.Digest(cid)
			if err != nil {
				return err
			}
			b, err := t.basis(ctx, run, number, d, previous)
			if err != nil {
				return err
			}
			x, _, err := chain.Settle(b, t.payable(b, es))
			if err = errors.Join(t.failed, err); err != nil {
				return err
			}
			enc, err := json.Marshal(x)
			if err != nil {
				return err
			}
			if err := writeFile(out, enc, 0o644); err != nil {
				return fmt.Errorf("epoch: %w", err)
			}
			free, err := t.ledger.Bonds(ctx, t.me)
			if err != nil {
				return err
			}
			if bond := t.where.Config.Bond; free.Cmp(bond) < 0 {
				if err := t.spend(ctx, bond, chain.DepositBond{Amount: bond}); err != nil {
					return err
				}
				if f.dry {
					return t.done()
				}
			}
			if _, err := t.do(ctx, chain.Propose{Epoch: x.Epoch}); err != nil {
				return err
			}
			return t.done()
		}),
	}
	f.add(c, true)
	c.Flags().StringVar(&receipts, "receipts", "", "file with the receipts")
	c.Flags().StringVar(&previous, "previous", "", "file of the last final epoch")
	c.Flags().StringVar(&commit, "commit", "", "CID of the epoch's last final commit")
	c.Flags().StringVar(&out, "out", "epoch.json", "where the epoch's file goes")
	c.Flags().StringVar(&sponsor, "sponsor", "", "address that published the run (default this account)")
	c.Flags().Uint64Var(&number, "number", 1, "which epoch, from 1")
	return c
}

// payable leaves out the receipts that would be disputed, and says which.
func (t *teller) payable(b chain.Basis, es []chain.Entry) []chain.Entry {
	type work struct {
		worker, subject string
		kind            chain.Kind
	}
	seen := map[work]bool{}
	var ok []chain.Entry
	for i := range es {
		r := &es[i].Receipt
		why := ""
		w := work{r.Worker.String(), r.Subject.String(), r.Kind}
		if err := b.Book.Check(&es[i]); err != nil {
			why = err.Error()
		} else if r.Run != b.Run || r.Epoch != b.Number {
			why = "it is for another run or epoch"
		} else if _, served := b.Owner(r.Worker); !served {
			why = "its worker's key was not registered in the epoch"
		} else if seen[w] {
			why = "it is a duplicate"
		}
		if why != "" {
			t.a.say("left out: receipt %d of %s: %s", i, r.Worker, why)
			continue
		}
		seen[w] = true
		ok = append(ok, es[i])
	}
	return ok
}

func (a *app) epochChallengeCmd() *cobra.Command {
	var f chainFlags
	var previous, evidence, side string
	var index int64
	c := &cobra.Command{
		Use:   "challenge FILE",
		Short: "Look for what is wrong in an epoch, and prove it",
		Long: `FILE is the epoch's file as its proposer has published it. What a proof on the
chain can show is proven: a receipt that may not be paid, a duplicate, rewards
that do not add up, an account that lost something. --tree and --index ask for
one leaf instead, for a bond: the proposer shows it or is convicted. --evidence
brings the case before the validators, for a bond.`,
		Example: `  shoal epoch challenge epoch3.json --previous epoch2.json
  shoal epoch challenge epoch3.json --tree receipts --index 17
  shoal epoch challenge epoch3.json --evidence bafy…`,
		Args: exactly("FILE"),
		RunE: a.at(&f, func(ctx context.Context, t *teller, args []string) error {
			x, err := readEpoch(args[0])
			if err != nil {
				return err
			}
			act, err := t.fault(ctx, x, previous, evidence, side, index)
			if err != nil {
				return err
			}
			if act.Target() == chain.Disputes {
				switch act.(type) {
				case chain.Demand, chain.Dispute:
					err = t.spend(ctx, t.where.Config.ChallengeBond, act)
				default:
					_, err = t.do(ctx, act)
				}
			}
			if err != nil {
				return err
			}
			return t.done()
		}),
	}
	f.add(c, true)
	c.Flags().StringVar(&previous, "previous", "", "file of the last final epoch, to look for what was taken away")
	c.Flags().StringVar(&evidence, "evidence", "", "CID of a case for the validators")
	c.Flags().StringVar(&side, "tree", "", "ask for a leaf of this tree: rewards or receipts")
	c.Flags().Int64Var(&index, "index", 0, "the leaf's index")
	return c
}

// fault finds the action that challenges x.
func (t *teller) fault(ctx context.Context, x *chain.Settled, previous, evidence, side string, index int64) (chain.Action, error) {
	switch {
	case evidence != "":
		c, err := wire.ParseCID(evidence)
		if err != nil {
			return nil, usagef("--evidence: %v", err)
		}
		d, err := chain.Digest(c)
		return chain.Dispute{Epoch: x.Epoch, Evidence: d}, err
	case side == "rewards" && index >= 0:
		return chain.Demand{Epoch: x.Epoch, Side: chain.OfRewards, Index: uint64(index)}, nil
	case side == "receipts" && index >= 0:
		return chain.Demand{Epoch: x.Epoch, Side: chain.OfReceipts, Index: uint64(index)}, nil
	case side != "":
		return nil, usagef("--tree %q --index %d: want rewards or receipts, and an index from 0", side, index)
	}
	same, err := seal(x, t.where.Book)
	if err != nil {
		return nil, err
	}
	if !same {
		return nil, advise(errors.New("the file is not what the epoch's roots stand for: nothing can be proven with it"), "ask for a leaf with --tree and --index; who proposed must show it")
	}
	b, err := t.basis(ctx, x.Epoch.Run, x.Epoch.Number, x.Epoch.Commit, previous)
	if err != nil && previous != "" {
		return nil, err
	}
	if b.Owner != nil {
		for i := range x.Entries {
			e := &x.Entries[i]
			_, served := b.Owner(e.Receipt.Worker)
			if t.failed != nil {
				return nil, t.failed
			}
			if b.Book.Check(e) != nil || !served || e.Receipt.Run != x.Epoch.Run || e.Receipt.Epoch != x.Epoch.Number || e.Index >= x.Epoch.Count {
				return chain.ProveReceipt{Epoch: x.Epoch, Entry: *e, Proof: x.EntryProof(i)}, nil
			}
		}
	}
	type work struct {
		w chain.Address
		k chain.Kind
		s chain.Hash
	}
	first := map[work]int{}
	for i, e := range x.Entries {
		w := work{e.Receipt.Worker, e.Receipt.Kind, e.Receipt.Subject}
		if j, ok := first[w]; ok {
			return chain.ProveDuplicate{Epoch: x.Epoch, A: x.Entries[j], ProofA: x.EntryProof(j), B: e, ProofB: x.EntryProof(i)}, nil
		}
		first[w] = i
	}
	sum := new(big.Int)
	accounts := map[chain.Address]int{}
	prove := func(i, j int) chain.Action {
		return chain.ProveRewards{Epoch: x.Epoch, A: x.Rewards[i], ProofA: x.RewardProof(i), B: x.Rewards[j], ProofB: x.RewardProof(j)}
	}
	for i, r := range x.Rewards {
		if j, ok := accounts[r.Account]; ok {
			return prove(j, i), nil
		}
		accounts[r.Account] = i
		if r.Index != uint64(i) || r.Before.Cmp(sum) != 0 {
			return prove(max(0, i-1), i), nil
		}
		sum.Add(sum, r.Amount)
	}
	if n := len(x.Rewards) - 1; sum.Cmp(x.Epoch.Total) != 0 {
		return prove(n, n), nil
	}
	if previous != "" {
		old, err := readEpoch(previous)
		if err != nil {
			return nil, err
		}
		if _, err := seal(old, t.where.Book); err != nil {
			return nil, err
		}
		for i, r := range old.Rewards {
			if j, ok := accounts[r.Account]; ok && x.Rewards[j].Amount.Cmp(r.Amount) < 0 {
				return chain.ProveDecrease{Epoch: x.Epoch, Was: r, ProofWas: old.RewardProof(i), Now: x.Rewards[j], ProofNow: x.RewardProof(j)}, nil
			}
		}
	}
	return nil, advise(errors.New("nothing is wrong in this epoch that a proof on the chain could show"), "if recomputation shows a fault, bring it before the validators with --evidence")
}
