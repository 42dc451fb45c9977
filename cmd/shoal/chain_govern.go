package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/evm"
	"github.com/shoalnet/shoal/gpu/hf"
)

func (a *app) governCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "govern",
		Short: "Vote on the ledger's parameters and on appeals",
		Long: `Holders of the token govern: they move, vote, and after a timelock carry out. The
windows and parts of disputes, the least stake of a validator, the guardians of
the pause, unpausing and the ruling on an appeal are theirs; nobody's money is.
Tokens vote for nobody until their holder has delegated them to itself.`,
		Example: `  shoal govern delegate
  shoal govern propose --set challengeWindow=7200 --why "epochs are longer now" --out motion.json
  shoal govern vote motion.json yes
  shoal govern queue motion.json
  shoal govern execute motion.json`,
	}, a.governDelegateCmd(), a.governProposeCmd(), a.governVoteCmd(), a.governStepCmd("queue"), a.governStepCmd("execute"), a.governStatusCmd())
}

func (a *app) governDelegateCmd() *cobra.Command {
	return a.atLedger(&cobra.Command{
		Use:     "delegate",
		Short:   "Let this account's tokens vote, in motions that are made from now on",
		Example: "  shoal govern delegate",
		Args:    exactly(),
	}, true, func(ctx context.Context, t *teller, _ []string) error {
		if _, err := t.do(ctx, evm.Delegate{To: t.me}); err != nil {
			return err
		}
		if v, err := t.ledger.Votes(ctx, t.me); err == nil && !t.flags.dry {
			a.say("%s votes", chain.FormatAmount(v))
		}
		return t.done()
	})
}

func (a *app) governProposeCmd() *cobra.Command {
	var set []string
	var minimum, rule, guardian, unpause, why, out string
	c := &cobra.Command{
		Use:   "propose",
		Short: "Put a motion before the holders of the token",
		Long: `One of --set, --minimum, --rule, --guardian and --unpause says what. The motion is
written to --out: whoever votes needs that file.`,
		Example: `  shoal govern propose --set challengeWindow=7200,slashBps=2000 --why "longer epochs"
  shoal govern propose --minimum 500 --why "more validators"
  shoal govern propose --rule 0x8c1f…=innocent --dry-run
  shoal govern propose --rule 0x8c1f…=innocent --why "recomputed: it is right"
  shoal govern propose --guardian runs=0x71562b71999873db5b286df957af199ec94617f7 --why "the old one pauses for fun"`,
		Args: exactly(),
	}
	fl := c.Flags()
	fl.StringSliceVar(&set, "set", nil, "parameters of the settlement, by their names in `shoal chain status --json`")
	fl.StringVar(&minimum, "minimum", "", "least stake of a validator, to propose")
	fl.StringVar(&rule, "rule", "", "RUN=guilty or RUN=innocent: the word on an appeal; or CONVICTION=…")
	fl.StringVar(&guardian, "guardian", "", "CONTRACT=ADDRESS: who may pause it")
	fl.StringVar(&unpause, "unpause", "", "staking, runs, settlement or vouchers")
	fl.StringVar(&why, "why", "", "the reason, in a sentence")
	fl.StringVar(&out, "out", "motion.json", "where the motion goes")
	return a.atLedger(c, true, func(ctx context.Context, t *teller, _ []string) error {
		act, err := t.motion(ctx, set, minimum, rule, guardian, unpause)
		if err != nil {
			return err
		}
		m, err := t.ledger.MotionFor(ctx, act, why)
		if err != nil {
			return err
		}
		b, err := json.MarshalIndent(m, "", "  ")
		if err != nil {
			return err
		}
		if old, err := readMotion(out); err == nil && (old.To != m.To || old.Why != m.Why || !bytes.Equal(old.Data, m.Data)) {
			return advise(fmt.Errorf("%s holds another motion, which nobody can vote on without the file", out), "name another file with --out")
		}
		if !t.flags.dry {
			if err := writeFile(out, append(b, '\n'), 0o644); err != nil {
				return fmt.Errorf("motion: %w", err)
			}
		}
		if _, err := t.do(ctx, evm.Move{Motion: m}); err != nil {
			return t.whyNotMoved(ctx, m, out, err)
		}
		if i, err := t.ledger.Motion(ctx, m); err == nil && !t.flags.dry {
			a.say("%s: votes from %s to %s, with `shoal govern vote %s yes`", out, clock(i.Opens), clock(i.Closes), out)
		}
		return t.done()
	})
}

// motion makes the action of the one flag that is set.
func (t *teller) motion(ctx context.Context, set []string, minimum, rule, guardian, unpause string) (chain.Action, error) {
	given := 0
	for _, on := range []bool{len(set) > 0, minimum != "", rule != "", guardian != "", unpause != ""} {
		if on {
			given++
		}
	}
	if given != 1 {
		return nil, usageError{errors.New("a motion is one of --set, --minimum, --rule, --guardian and --unpause"), "see `shoal govern propose --help`"}
	}
	contract := func(s string) (chain.Contract, error) {
		switch c := chain.Contract(s); c {
		case chain.Staking, chain.Runs, chain.Settlement, chain.Vouchers:
			return c, nil
		}
		return "", usagef("%q is none of staking, runs, settlement and vouchers", s)
	}
	switch {
	case minimum != "":
		n, err := amountOf(minimum)
		return chain.SetMinimum{Minimum: n}, err
	case rule != "":
		run, word, _ := strings.Cut(rule, "=")
		id, err := chain.ParseHash(run)
		if err != nil || word != "guilty" && word != "innocent" {
			return nil, usagef("--rule %q: want ID=guilty or ID=innocent, ID being a run's on the ledger or a conviction's", rule)
		}
		switch x, err := t.ledger.Sentence(ctx, id); {
		case err != nil:
			return nil, err
		case x.Phase == chain.UnderAppeal:
			return chain.RuleConviction{ID: id, Guilty: word == "guilty"}, nil
		case x.Phase != chain.NotReported:
			return nil, advise(fmt.Errorf("the conviction %s is not before governance: it is %s", id, x.Phase), "`shoal dispute status %s` shows where it is", x.Run)
		}
		c, err := t.ledger.Case(ctx, id)
		if err != nil {
			return nil, err
		}
		if c.Stage != chain.Appealed {
			return nil, advise(fmt.Errorf("no case of run %s is before governance", id), "`shoal dispute status %s` shows where it is", id)
		}
		return chain.Rule{Run: id, Serial: c.Serial, Guilty: word == "guilty"}, nil
	case guardian != "":
		name, who, _ := strings.Cut(guardian, "=")
		c, err := contract(name)
		if err != nil {
			return nil, err
		}
		a, err := chain.ParseAddress(who) // or nobody, the zero address
		if err != nil {
			return nil, usagef("--guardian: %v", err)
		}
		return chain.SetGuardian{Contract: c, Guardian: a}, nil
	case unpause != "":
		c, err := contract(unpause)
		return chain.Unpause{Contract: c}, err
	}
	p, err := t.ledger.Params(ctx)
	if err != nil {
		return nil, err
	}
	return setParams(p, set, t.where.Config.UnbondDelay)
}

// setParams changes parameters by their names. What the contract would refuse in the end is refused now:
// unbonding takes so many seconds.
func setParams(p chain.Params, set []string, unbond uint64) (chain.Action, error) {
	change := map[string]uint64{}
	for _, kv := range set {
		k, v, _ := strings.Cut(kv, "=")
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return nil, usagef("--set %q: want NAME=NUMBER, seconds or parts per 10,000", kv)
		}
		change[k] = n
	}
	b, err := json.Marshal(change)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return nil, usageError{fmt.Errorf("--set: %w", err), "there are challengeWindow, answerWindow, commitWindow, revealWindow, appealWindow and rulingWindow, in seconds, and slashBps, challengerBps and absentBps, in parts per 10,000"}
	}
	if !p.Within(unbond) {
		return nil, usagef("--set %s: want windows above 0 that add up to less than the %d seconds of unbonding, slashBps up to 10000, challengerBps up to 5000 and absentBps up to 1000", strings.Join(set, ","), unbond)
	}
	return chain.SetParams{Params: p}, nil
}

func (t *teller) whyNotMoved(ctx context.Context, m evm.Motion, file string, err error) error {
	var r *chain.Refusal
	if !errors.As(err, &r) {
		return err
	}
	switch r.Reason {
	case "GovernorInsufficientProposerVotes":
		v, e := t.ledger.Votes(ctx, t.me)
		if e != nil {
			return err
		}
		return advise(err, "%s votes with %s; `shoal govern delegate` lets its tokens vote, a second later", t.me, chain.FormatAmount(v))
	case "GovernorUnexpectedProposalState", "TimelockUnexpectedOperationState":
		if i, e := t.ledger.Motion(ctx, m); e == nil {
			return advise(err, "%s", motionNext(i, file))
		}
	case "GovernorNonexistentProposal":
		return advise(err, "the file must be the one that `shoal govern propose` has written")
	}
	return err
}

// motionNext says what can be done about a motion.
func motionNext(i evm.MotionInfo, file string) string {
	switch i.State {
	case evm.MotionPending:
		return "the voting opens " + clock(i.Opens)
	case evm.MotionActive:
		return fmt.Sprintf("vote until %s: `shoal govern vote %s yes`", clock(i.Closes), file)
	case evm.MotionSucceeded:
		return "it has won: `shoal govern queue " + file + "`"
	case evm.MotionQueued:
		if uint64(time.Now().Unix()) < i.Ready {
			return "the timelock is over " + clock(i.Ready) + ": then `shoal govern execute " + file + "`"
		}
		return "`shoal govern execute " + file + "`"
	case evm.MotionDefeated:
		return "it has lost, or too few have voted; another --why makes another motion of it"
	}
	return "nothing more is to be done: it is " + i.State.String()
}

func readMotion(name string) (m evm.Motion, err error) {
	b, err := readBounded(name, 1<<20)
	if err != nil {
		return m, fmt.Errorf("motion: %w", err)
	}
	if err = hf.Unmarshal(b, &m); err == nil && m.To.IsZero() {
		err = errors.New("it names no contract")
	}
	if err != nil {
		return m, advise(fmt.Errorf("motion: %s: %w", name, err), "give the file that `shoal govern propose` has written")
	}
	return m, nil
}

func (a *app) governVoteCmd() *cobra.Command {
	return a.atLedger(&cobra.Command{
		Use:     "vote FILE yes|no|abstain",
		Short:   "Vote on a motion",
		Example: "  shoal govern vote motion.json yes",
		Args:    exactly("FILE", "yes|no|abstain"),
	}, true, func(ctx context.Context, t *teller, args []string) error {
		b, ok := map[string]evm.Ballot{"yes": evm.For, "no": evm.Against, "abstain": evm.Abstain}[args[1]]
		if !ok {
			return usagef("%q is no vote: want yes, no or abstain", args[1])
		}
		m, err := readMotion(args[0])
		if err != nil {
			return err
		}
		if _, err := t.do(ctx, evm.Vote{Motion: m, Ballot: b}); err != nil {
			return t.whyNotMoved(ctx, m, args[0], err)
		}
		return t.done()
	})
}

// governStepCmd is queue or execute.
func (a *app) governStepCmd(step string) *cobra.Command {
	short := map[string]string{"queue": "Start the timelock of a motion that has won", "execute": "Carry out a motion whose timelock is over"}[step]
	return a.atLedger(&cobra.Command{
		Use: step + " FILE", Short: short, Example: "  shoal govern " + step + " motion.json", Args: exactly("FILE"),
	}, true, func(ctx context.Context, t *teller, args []string) error {
		m, err := readMotion(args[0])
		if err != nil {
			return err
		}
		var act chain.Action = evm.Queue{Motion: m}
		if step == "execute" {
			act = evm.Enact{Motion: m}
		}
		if _, err := t.do(ctx, act); err != nil {
			return t.whyNotMoved(ctx, m, args[0], err)
		}
		return t.done()
	})
}

func (a *app) governStatusCmd() *cobra.Command {
	return a.atLedger(&cobra.Command{
		Use:     "status FILE",
		Short:   "Show where a motion is, and what is to be done next",
		Example: "  shoal govern status motion.json --json",
		Args:    exactly("FILE"),
	}, false, func(ctx context.Context, t *teller, args []string) error {
		m, err := readMotion(args[0])
		if err != nil {
			return err
		}
		i, err := t.ledger.Motion(ctx, m)
		if err != nil {
			return t.whyNotMoved(ctx, m, args[0], err)
		}
		v := map[string]any{"id": i.ID, "state": i.State.String(), "opens": i.Opens, "closes": i.Closes, "ready": i.Ready,
			"for": chain.FormatAmount(i.For), "against": chain.FormatAmount(i.Against), "abstain": chain.FormatAmount(i.Abstain), "required": chain.FormatAmount(i.Required)}
		return a.show(v, fmt.Sprintf("%q: %s\n  for %s, against %s, abstain %s; %s must take part\n  next: %s\n", m.Why, i.State, v["for"], v["against"], v["abstain"], v["required"], motionNext(i, args[0])))
	})
}
