package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/toploc/audit"
)

// fundFlags say how a run is put on the ledger.
type fundFlags struct {
	amount  string // tokens
	inAll   bool   // less what this account has paid in before
	budget  string // tokens an epoch
	length  time.Duration
	royalty uint16
	given   []string // of the flags that only count where the run is not there yet
}

// terms are the flags that say on what terms a run is put on the ledger.
var terms = []string{"budget", "epoch", "royalty"}

// check refuses what the ledger would, before anything is asked or paid.
func (f *fundFlags) check(c *cobra.Command) error {
	for _, name := range terms {
		if c.Flags().Changed(name) {
			f.given = append(f.given, "--"+name)
		}
	}
	if f.amount == "" && len(f.given) > 0 {
		return usagef("%s: of a run that is put on the ledger: it needs --fund", strings.Join(f.given, ", "))
	}
	if f.length < 10*time.Second || f.length > 30*24*time.Hour || f.length%time.Second != 0 {
		return usagef("--epoch %v: want 10s to 720h in whole seconds", f.length)
	}
	if f.royalty > 10_000 {
		return usagef("--royalty %d: want 0 to 10000", f.royalty)
	}
	if f.budget != "" {
		if _, err := spending(f.budget); err != nil {
			return fmt.Errorf("--budget: %w", err)
		}
	}
	if f.amount == "" {
		return nil
	}
	_, err := spending(f.amount)
	return err
}

func (f *fundFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.budget, "budget", "", "tokens that an epoch may cost, of a run that is put on the ledger (default the manifest's budget)")
	c.Flags().DurationVar(&f.length, "epoch", time.Hour, "length of an epoch of a run that is put on the ledger: several rounds")
	c.Flags().Uint16Var(&f.royalty, "royalty", 1000, "parts per 10,000 of paid inference that go to the holders of shares")
}

func (a *app) fundCmd() *cobra.Command {
	var f chainFlags
	var ff fundFlags
	var sponsor string
	c := &cobra.Command{
		Use:   "fund RUN AMOUNT",
		Short: "Pay into a run's pool, and put the run on the ledger first",
		Long: `RUN is a run's ID on the ledger, its manifest's CID or its manifest's file. A run
that the ledger does not know is published first, from its manifest's file and
by the account that signed it (shoal manifest sign): the budget of an epoch, the
split and whether there are shares are the manifest's. What the epochs leave
goes back to the sponsor after the run's end.`,
		Example: `  shoal manifest sign run.yaml --budget 10
  shoal fund run.yaml 1000 --epoch 1h
  shoal fund 0x8c1f… 50`,
		Args: exactly("RUN", "AMOUNT"),
	}
	pay := a.at(&f, func(ctx context.Context, t *teller, args []string) error { return t.fund(ctx, args[0], sponsor, ff) })
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ff.amount = args[1]
		if err := ff.check(cmd); err != nil {
			return err
		}
		return pay(cmd, args)
	}
	f.add(c, true)
	ff.add(c)
	c.Flags().StringVar(&sponsor, "sponsor", "", "address that published the run (default the manifest's sponsor, or this account)")
	return c
}

// fundFirst is `shoal fund` with the flags of another command.
func (a *app) fundFirst(ctx context.Context, kf keyFlags, file string, ff fundFlags) error {
	f := &chainFlags{keyFlags: kf, acts: true, timeout: 5 * time.Minute}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	t, err := a.teller(ctx, f)
	if err != nil {
		return err
	}
	defer t.close()
	ff.inAll = true
	return t.fund(ctx, file, "", ff)
}

// paidIn is what this account has paid into a run's pool in all.
func (t *teller) paidIn(ctx context.Context, run chain.Hash) (chain.Amount, error) {
	es, _, err := t.ledger.Events(ctx, chain.Cursor{})
	sum := new(big.Int)
	for _, e := range es {
		if e.Name == "Funded" && e.Run == run && e.Account == t.me {
			sum.Add(sum, e.Amount)
		}
	}
	return sum, err
}

// fund pays into a run's pool; one that the ledger does not know is put there first.
func (t *teller) fund(ctx context.Context, run, sponsor string, ff fundFlags) error {
	n, err := spending(ff.amount)
	if err != nil {
		return err
	}
	id, err := t.runOf(run, sponsor)
	if err != nil {
		return err
	}
	_, err = t.ledger.Run(ctx, id)
	var no *chain.Refusal
	switch {
	case errors.As(err, &no) && no.Reason == "RunUnknown":
		if err = t.affords(ctx, n); err == nil {
			err = t.publish(ctx, run, ff)
		}
		if err == nil && t.flags.dry {
			return t.done() // the rest cannot be tried before that
		}
	case err == nil && len(ff.given) > 0:
		t.a.say("note: the run is on the ledger already: %s changes nothing (`shoal sponsor rate` changes the budget)", strings.Join(ff.given, ", "))
	}
	if err == nil && ff.inAll {
		var had chain.Amount
		if had, err = t.paidIn(ctx, id); err == nil && had.Sign() > 0 {
			t.a.say("paid %s into the run's pool before, of %s", chain.FormatAmount(had), ff.amount)
			if n = new(big.Int).Sub(n, had); n.Sign() <= 0 {
				return nil
			}
		}
	}
	if err != nil {
		return err
	}
	if err := t.spend(ctx, n, chain.Fund{Run: id, Amount: n}); err != nil {
		return err
	}
	t.a.say("run %s", id)
	return t.done()
}

// publish puts a run on the ledger by its manifest's file.
func (t *teller) publish(ctx context.Context, file string, ff fundFlags) error {
	m, c, err := readManifest(file)
	if err != nil {
		return advise(fmt.Errorf("the ledger does not know the run, and %s is no manifest that would put it there: %w", file, err), "give the manifest's file")
	}
	if m.Sponsor != nil && chain.Address(m.Sponsor.Address) != t.me {
		return advise(fmt.Errorf("the manifest's sponsor is %s, this account is %s", m.Sponsor.Address, t.me), "only the sponsor puts the run on the ledger")
	}
	if why := t.where.outrun(m); why != "" {
		t.a.say("note: %s", why)
	}
	rate := chain.Rate{Split: splitIn(m)}
	if rate.Budget, err = budgetOf(m, t.where.Book.Contracts[chain.Token], ff.budget); err != nil {
		return err
	}
	d, err := chain.Digest(c)
	if err != nil {
		return err
	}
	now, err := t.ledger.Now(ctx)
	if err != nil {
		return err
	}
	// The first epoch begins a little later than now, or the block that has it
	// would come after its beginning.
	_, err = t.do(ctx, chain.Publish{Manifest: d, Start: max(now, uint64(time.Now().Unix())) + 15, Length: uint64(ff.length / time.Second),
		Royalty: ff.royalty, Shares: m.Rewards.Shares, Rate: rate})
	return err
}

// outrun says where stake that is taken back could be gone before a conviction of its
// owner is carried out: unbonding must outlast the audit window of the last work, the
// case's own, a commit that becomes final, and the time to appeal and to rule. Rounds are taken
// to be as long as they may be. Empty: it does outlast them.
func (d *deployment) outrun(m *manifest.Manifest) string {
	if m.Verification.AuditRate == 0 {
		return ""
	}
	rounds := audit.Memory(m.Verification.Window) + 3
	judged := time.Duration(rounds) * m.Round.Deadline
	p := d.Config.Params
	appeal := time.Duration(uint64(p.AppealWindow)+uint64(p.RulingWindow)) * time.Second
	if unbond := time.Duration(d.Config.UnbondDelay) * time.Second; judged+appeal > unbond {
		return fmt.Sprintf("stake is free %v after it was unbonded, but a conviction may take %v (verification.window %d, so %d rounds of at most %v, round.deadline) and %v of appeal: "+
			"who cheats and unbonds at once may get away with its stake where rounds are that long; lower one of the two, or use a ledger with a longer unbonding delay",
			unbond, judged, m.Verification.Window, rounds, m.Round.Deadline, appeal)
	}
	return ""
}

func splitIn(m *manifest.Manifest) [4]uint16 {
	r := m.Rewards
	return [4]uint16{uint16(r.Trainers), uint16(r.Workers), uint16(r.Validators), uint16(r.Sponsor)}
}

// budgetOf is what an epoch may cost: as asked, or as the manifest says.
func budgetOf(m *manifest.Manifest, token chain.Address, asked string) (chain.Amount, error) {
	if asked != "" {
		return amountOf(asked)
	}
	v, ok := new(big.Int).SetString(m.Rewards.Budget, 10)
	if !ok || v.Sign() == 0 {
		return nil, advise(errors.New("the ledger does not know the run, and its manifest has no budget"), "give what an epoch may cost with --budget, or sign the manifest with one")
	}
	if chain.Address(m.Rewards.Token) != token {
		return nil, fmt.Errorf("the manifest pays in the token %s, this ledger's is %s", m.Rewards.Token, token)
	}
	return v, nil
}
