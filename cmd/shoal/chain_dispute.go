package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
)

func (a *app) disputeCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "dispute",
		Short: "Judge a challenged epoch, answer a challenge, report an equivocator",
		Long: `A challenge that a proof settles is over at once ("shoal epoch challenge"). Who is
asked for a leaf answers with the epoch's file. What only recomputation shows is
judged by the validators: each commits to a vote that nobody can copy, then
reveals it; two thirds of their stake decide, and an appeal goes to governance.
So does an appeal of who is convicted of false work.`,
		Example: `  shoal dispute status run.yaml
  shoal dispute answer epoch3.json
  shoal dispute commit run.yaml guilty
  shoal dispute reveal run.yaml
  shoal dispute resolve run.yaml
  shoal dispute appeal run.yaml 0x9c41…
  shoal dispute report 16Uiu2…`,
	}, a.disputeStatusCmd(), a.disputeAnswerCmd(), a.disputeCommitCmd(), a.disputeRevealCmd(), a.disputeResolveCmd(), a.disputeAppealCmd(), a.disputeReportCmd())
}

// A matter is everything that is disputed about a run now.
type matter struct {
	Run      chain.Hash     `json:"run"`
	Now      uint64         `json:"now"`
	Proposal chain.Proposal `json:"proposal"`
	Case     chain.Case     `json:"case"`
	Demands  []demand       `json:"demands"` // without an answer, of all proposals
	Epoch    *chain.Epoch   `json:"epoch"`   // that is proposed

	Convictions []convicted `json:"convictions"` // by the run's final commits, the oldest first
}

type demand struct {
	Serial     uint64        `json:"serial"`
	Side       chain.Side    `json:"side"`
	Index      uint64        `json:"index"`
	Challenger chain.Address `json:"challenger"`
}

func (d demand) String() string {
	return fmt.Sprintf("leaf %d of %s, asked for by %s", d.Index, [...]string{"rewards", "receipts"}[d.Side&1], d.Challenger)
}

func (t *teller) matter(ctx context.Context, run chain.Hash) (m matter, err error) {
	m.Run = run
	if m.Now, err = t.ledger.Now(ctx); err != nil {
		return m, err
	}
	if m.Proposal, err = t.ledger.Proposal(ctx, run); err != nil {
		return m, err
	}
	if m.Case, err = t.ledger.Case(ctx, run); err != nil {
		return m, err
	}
	es, _, err := t.ledger.Events(ctx, chain.Cursor{})
	for _, e := range es {
		if e.Run != run {
			continue
		}
		switch e.Name {
		case "Proposed":
			m.Epoch = e.Epoch
		case "Demanded":
			m.Demands = append(m.Demands, demand{e.Serial, e.Side, e.Index, e.Account})
		case "Answered":
			for i, d := range m.Demands {
				if d.Serial == e.Serial && d.Side == e.Side && d.Index == e.Index {
					m.Demands = append(m.Demands[:i:i], m.Demands[i+1:]...)
					break
				}
			}
		case "Convicted":
			x := convicted{ID: e.Hash, Key: e.Key}
			if x.Sentence, err = t.ledger.Sentence(ctx, e.Hash); err != nil {
				return m, err
			}
			m.Convictions = append(m.Convictions, x)
		}
	}
	return m, err
}

// disputed reports whether the case is about the live proposal.
func (m *matter) disputed() bool {
	return m.Case.Stage != chain.NoCase && m.Proposal.Status == chain.Proposed && m.Case.Serial == m.Proposal.Serial
}

func (m *matter) describe() string {
	var b strings.Builder
	for _, x := range m.Convictions {
		b.WriteString(x.describe(m.Now))
	}
	p := m.Proposal
	if p.Status == chain.None {
		b.WriteString("no epoch was ever proposed\n")
		return b.String()
	}
	fmt.Fprintf(&b, "proposal %d by %s: %s", p.Serial, p.Proposer, p.Status)
	if p.Status == chain.Proposed {
		fmt.Fprintf(&b, ", challenges until %s, %d open", clock(p.Deadline), p.Open)
	}
	b.WriteString("\n")
	for _, d := range m.Demands {
		if d.Serial == p.Serial && p.Status == chain.Proposed {
			fmt.Fprintf(&b, "  %s: `shoal dispute answer FILE` shows it\n", d)
		}
	}
	c := m.Case
	switch {
	case c.Stage == chain.NoCase:
		return b.String()
	case c.Stage == chain.Closed:
		fmt.Fprintf(&b, "case of proposal %d: closed, %s\n", c.Serial, verdict(c.Verdict))
	case !m.disputed():
		fmt.Fprintf(&b, "case of proposal %d: overtaken; `shoal dispute resolve` returns its bonds\n", c.Serial)
	case c.Stage == chain.Voting && m.Now <= c.CommitEnd:
		fmt.Fprintf(&b, "case by %s, evidence %s: validators commit until %s\n", c.Challenger, c.Evidence, clock(c.CommitEnd))
	case c.Stage == chain.Voting && m.Now <= c.RevealEnd:
		fmt.Fprintf(&b, "case by %s: validators reveal until %s; guilty %s, innocent %s so far\n", c.Challenger, clock(c.RevealEnd), chain.FormatAmount(c.Guilty), chain.FormatAmount(c.Innocent))
	case c.Stage == chain.Voting:
		fmt.Fprintf(&b, "case by %s: guilty %s, innocent %s; `shoal dispute resolve` counts\n", c.Challenger, chain.FormatAmount(c.Guilty), chain.FormatAmount(c.Innocent))
	case c.Stage == chain.Decided:
		fmt.Fprintf(&b, "verdict %s; appeals until %s, then `shoal dispute resolve` carries it out\n", verdict(c.Verdict), clock(c.StageEnd))
	case c.Stage == chain.Appealed:
		fmt.Fprintf(&b, "before governance (verdict of the validators: %s) until %s, then `shoal dispute resolve`\n", verdict(c.Verdict), clock(c.StageEnd))
	}
	return b.String()
}

func verdict(v chain.Verdict) string { return [...]string{"none", "guilty", "innocent"}[min(v, 2)] }

func (a *app) disputeStatusCmd() *cobra.Command {
	return a.onRun(&cobra.Command{
		Use:     "status RUN",
		Short:   "Show what is proposed, asked for and judged, and until when",
		Example: "  shoal dispute status run.yaml --json",
		Args:    exactly("RUN"),
	}, false, func(ctx context.Context, t *teller, run chain.Hash, _ []string) error {
		m, err := t.matter(ctx, run)
		if err != nil {
			return err
		}
		return a.show(m, m.describe())
	})
}

func (a *app) disputeAnswerCmd() *cobra.Command {
	return a.atLedger(&cobra.Command{
		Use:   "answer FILE",
		Short: "Show the leaves of an epoch that somebody asks for",
		Long: `FILE is the epoch's file. Anyone may answer, and gets the bond of who asked; a
proposer who lets the time pass is convicted.`,
		Example: "  shoal dispute answer epoch3.json",
		Args:    exactly("FILE"),
	}, true, func(ctx context.Context, t *teller, args []string) error {
		x, err := readEpoch(args[0])
		if err != nil {
			return err
		}
		if same, err := seal(x, t.where.Book); err != nil || !same {
			return advise(errors.Join(errors.New("the file is not what the epoch's roots stand for"), err), "get the file that the proposer has published")
		}
		m, err := t.matter(ctx, x.Epoch.Run)
		if err != nil {
			return err
		}
		if m.Proposal.Status != chain.Proposed || m.Proposal.Hash != x.Epoch.Hash() {
			return advise(fmt.Errorf("epoch %d of %s is not the one that is proposed", x.Epoch.Number, args[0]), "`shoal dispute status %s` shows what is", x.Epoch.Run)
		}
		n := 0
		for _, d := range m.Demands {
			if d.Serial != m.Proposal.Serial {
				continue
			}
			var act chain.Action
			switch i := int(d.Index); {
			case d.Side == chain.OfRewards && i < len(x.Rewards):
				act = chain.AnswerReward{Epoch: x.Epoch, Reward: x.Rewards[i], Proof: x.RewardProof(i)}
			case d.Side == chain.OfReceipts && i < len(x.Entries):
				act = chain.AnswerReceipt{Epoch: x.Epoch, Entry: x.Entries[i], Proof: x.EntryProof(i)}
			default:
				continue
			}
			if _, err := t.do(ctx, act); err != nil {
				return err
			}
			n++
		}
		if n == 0 {
			return advise(errors.New("nobody asks for a leaf of this epoch"), "nothing is to be done; `shoal dispute status %s` shows what is open", x.Epoch.Run)
		}
		return t.done()
	})
}

// voter returns whose vote this peer's key casts, and in which case.
func (t *teller) voter(ctx context.Context, run chain.Hash) (chain.Address, matter, error) {
	who := t.me
	k, err := t.ledger.Key(ctx, t.me)
	if err != nil {
		return who, matter{}, err
	}
	if !k.Owner.IsZero() {
		who = k.Owner
	}
	m, err := t.matter(ctx, run)
	if err == nil && (!m.disputed() || m.Case.Stage != chain.Voting) {
		err = advise(errors.New("no case of this run is being voted on"), "`shoal dispute status %s` shows what is disputed", run)
	}
	return who, m, err
}

func (a *app) disputeCommitCmd() *cobra.Command {
	return a.onRun(&cobra.Command{
		Use:   "commit RUN guilty|innocent",
		Short: "Commit to a vote on the case before the validators",
		Long: `Sends a hash of the vote, which nobody can read or copy: it names its voter and
has a salt that follows from this peer's key. Reveal it with the same key once
the time to commit is over; a vote that stays hidden costs a part of the stake.`,
		Example: "  shoal dispute commit run.yaml guilty",
		Args:    exactly("RUN", "guilty|innocent"),
	}, true, func(ctx context.Context, t *teller, run chain.Hash, args []string) error {
		if args[1] != "guilty" && args[1] != "innocent" {
			return usagef("%q is no vote: want guilty or innocent", args[1])
		}
		who, m, err := t.voter(ctx, run)
		if err != nil {
			return err
		}
		book, serial := t.where.Book, m.Case.Serial
		h := book.VoteHash(run, serial, who, args[1] == "guilty", book.VoteSalt(t.key, run, serial))
		if _, err := t.do(ctx, chain.CommitVote{Run: run, Hash: h}); err != nil {
			return err
		}
		a.say("reveal between %s and %s: `shoal dispute reveal %s`", clock(m.Case.CommitEnd+1), clock(m.Case.RevealEnd), args[0])
		return t.done()
	})
}

func (a *app) disputeRevealCmd() *cobra.Command {
	return a.onRun(&cobra.Command{
		Use:     "reveal RUN",
		Short:   "Reveal the vote that was committed to",
		Long:    "Finds out from the chain and this peer's key which vote it was, and reveals it.",
		Example: "  shoal dispute reveal run.yaml",
		Args:    exactly("RUN"),
	}, true, func(ctx context.Context, t *teller, run chain.Hash, _ []string) error {
		who, m, err := t.voter(ctx, run)
		if err != nil {
			return err
		}
		if m.Now <= m.Case.CommitEnd {
			return advise(errors.New("votes are still being committed to"), "reveal between %s and %s", clock(m.Case.CommitEnd+1), clock(m.Case.RevealEnd))
		}
		h, err := t.ledger.Committed(ctx, run, who)
		if err != nil {
			return err
		}
		book, serial := t.where.Book, m.Case.Serial
		salt := book.VoteSalt(t.key, run, serial)
		for _, guilty := range []bool{true, false} {
			if !h.IsZero() && h == book.VoteHash(run, serial, who, guilty, salt) {
				if _, err := t.do(ctx, chain.RevealVote{Run: run, Guilty: guilty, Salt: salt}); err != nil {
					return err
				}
				return t.done()
			}
		}
		if h.IsZero() {
			return fmt.Errorf("%s has committed to no vote in this case, or has revealed it", who)
		}
		return advise(fmt.Errorf("%s has committed to a vote with another key than this peer's, %s", who, t.me), "reveal it where it was committed to")
	})
}

func (a *app) disputeResolveCmd() *cobra.Command {
	var absent []string
	c := &cobra.Command{
		Use:   "resolve RUN",
		Short: "Do what is due: count, carry out, convict who has not answered, return bonds",
		Long: `Looks at everything that is disputed about the run and does what the chain lets
anyone do now; a conviction that nobody has appealed, or governance has not ruled on
in time, is carried out. --absent punishes validators that have committed to a vote and not
revealed it.`,
		Example: `  shoal dispute resolve run.yaml
  shoal dispute resolve run.yaml --absent 0x71562b71999873db5b286df957af199ec94617f7`,
		Args: exactly("RUN"),
	}
	c.Flags().StringSliceVar(&absent, "absent", nil, "validators that have hidden their votes")
	return a.onRun(c, true, func(ctx context.Context, t *teller, run chain.Hash, _ []string) error {
		m, err := t.matter(ctx, run)
		if err != nil {
			return err
		}
		var acts []chain.Action
		c := m.Case
		switch {
		case c.Stage == chain.NoCase || c.Stage == chain.Closed:
		case !m.disputed():
			acts = append(acts, chain.Abandon{Run: run})
		case c.Stage == chain.Voting && m.Now > c.RevealEnd:
			acts = append(acts, chain.Decide{Run: run})
		case (c.Stage == chain.Decided || c.Stage == chain.Appealed) && m.Now > c.StageEnd:
			acts = append(acts, chain.Execute{Run: run})
		}
		for _, s := range absent {
			who, err := chain.ParseAddress(s)
			if err != nil {
				return usagef("--absent: %v", err)
			}
			acts = append(acts, chain.PunishAbsent{Run: run, Voter: who})
		}
		for _, d := range m.Demands {
			var act chain.Action = chain.Reclaim{Run: run, Serial: d.Serial, Side: d.Side, Index: d.Index}
			if m.Proposal.Status == chain.Proposed && d.Serial == m.Proposal.Serial {
				act = chain.Expire{Epoch: *m.Epoch, Side: d.Side, Index: d.Index}
			}
			if _, _, err := t.ledger.Estimate(ctx, t.me, act); err == nil {
				acts = append(acts, act)
			}
		}
		for _, x := range m.Convictions {
			if x.open() && m.Now > x.Deadline {
				acts = append(acts, chain.ExecuteConviction{ID: x.ID})
			}
		}
		if len(acts) == 0 {
			return advise(fmt.Errorf("nothing can be resolved now:\n%s", strings.TrimRight(m.describe(), "\n")), "try again when the time that is shown is over")
		}
		for i, act := range acts {
			if _, err := t.do(ctx, act); err != nil {
				var r *chain.Refusal
				if _, bond := act.(chain.Reclaim); i > 0 && bond && errors.As(err, &r) {
					continue // what came before has changed it
				}
				return err
			}
		}
		return t.done()
	})
}
