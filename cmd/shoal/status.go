package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/chain/agent"
	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/control"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how the running peer stands",
		Long:  "Asks the peer that runs with this data directory. Its addresses serve others as --bootstrap.",
		Example: `  shoal status
  shoal status --json | jq .final_round
  shoal status --dir /data/shoal`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := a.running(cmd.Context())
			if errors.Is(err, control.ErrNotRunning) {
				return advise(err, "start it with `shoal join RUN`, or name its data directory with --dir")
			} else if err != nil {
				return err
			}
			return a.show(st, statusText(st))
		},
	}
}

// ledgerText says how this peer stands with its run's ledger: what it has earned,
// and why some of its work has not.
func ledgerText(row func(name, format string, args ...any), l *agent.Status) {
	if l.Trouble != "" {
		row("ledger", "waits: %s", l.Trouble)
	}
	for _, lost := range l.Lost {
		row("lost", "%s", lost)
	}
	row("epochs", "%d runs, %d is settled, %d wait", l.Epoch, l.Final, l.Waiting)
	row("earned", "%s for %s", chain.FormatAmount(l.Earned), l.Account)
	count := map[string]int{}
	var order []string
	for _, x := range l.Lines {
		if x.Why != "" {
			if count[x.Why] == 0 {
				order = append(order, x.Why)
			}
			count[x.Why]++
		}
	}
	for _, why := range order {
		row("unpaid", "%d: %s", count[why], why)
	}
	for _, s := range l.Slashed {
		end := "the ledger has not decided"
		if s.Closed && s.Slashed {
			end = "slashed by " + chain.FormatAmount(s.Amount)
		} else if s.Closed {
			end = "dismissed by governance"
		}
		row("convicted", "…%s in round %d, %s: %s", s.Peer.Short(), s.Round, s.Why, end)
	}
}

// running is the status of the node that runs with this data directory.
func (a *app) running(ctx context.Context) (*status, error) {
	if err := a.housed(); err != nil {
		return nil, err
	}
	st := new(status)
	if err := control.Dial(a.dir).Get(ctx, "/status", st); err != nil {
		return nil, err
	}
	return st, nil
}

func statusText(st *status) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, line(fmt.Sprintf(format, args...)))
	}
	row("run", "%s  %s", st.Name, st.Run)
	row("peer", "%s  %s", st.Peer, st.Address)
	phase := string(st.Phase)
	if st.Phase == node.Training {
		phase += fmt.Sprintf(", inner step %d of %d", st.InnerStep, st.InnerSteps)
	}
	row("phase", "%s", phase)
	if st.Trouble != "" {
		row("trouble", "%s", st.Trouble)
	}
	if st.Skew != 0 {
		row("clock", "%s: set it", skewed(st.Skew))
	}
	weak := ""
	if st.Weak {
		weak = "  (weak: less than 2/3 of the roster voted)"
	}
	round := fmt.Sprintf("%d of %d", st.Round, st.Rounds)
	if st.Rounds > 0 && st.Round > st.Rounds {
		round = fmt.Sprintf("%d of %[1]d, and %d in which nobody trains", st.Rounds, st.Round-st.Rounds)
	}
	row("round", "%s%s", round, weak)
	row("head", "%s", st.Head)
	row("final", "round %d  %s", st.FinalRound, st.Final)
	row("state", "%s", st.FinalState)
	if st.Done {
		row("result", "%s", st.ResultState)
	}
	switch {
	case st.Loss > 0:
		row("loss", "training %.4f, validation %.4f (round %d)", st.Loss, st.ValLoss, st.ValRound)
	case st.ValLoss > 0: // who does not train
		row("loss", "validation %.4f (round %d)", st.ValLoss, st.ValRound)
	}
	if f := st.Machine; f != nil {
		row("machine", "%s", f)
	}
	if st.Role == node.RoleValidator {
		row("audits", "%d passed, %d wrong, %d withheld, in %.1f %% of the time", st.Audits["passed"], st.Audits["wrong"], st.Audits["withheld"], 100*st.AuditShare)
		if st.Missed > 0 {
			row("missed", "%d of %d points: at %d this validator is removed, its machine is too slow or out of reach (--log-level info says which audits wait)", st.Missed, audit.MissLimit, audit.MissLimit)
		}
	} else {
		row("speed", "%s tokens/s, %s tokens trained", count(st.TokensPerS), count(float64(st.Tokens)))
		row("contributed", "%d rounds", st.RoundsContributed)
	}
	if st.Role != "" {
		row("role", "%s", st.Role)
	}
	for _, s := range st.Suspects {
		row("suspect", "…%s, round %d: %s (segment %d is replayed for it)", s.Peer.Short(), s.Round, s.Why, s.Segment)
	}
	for _, c := range st.Cases {
		row("case", "…%s, round %d, segment %d of %s, open since round %d: %s; see `shoal audit verify %s`",
			c.Peer.Short(), c.Round, c.Segment, c.Subject.Short(), c.Opened, words(&c), c.Evidence)
	}
	for _, p := range st.Banned {
		row("banned", "%s", p)
	}
	if l := st.Ledger; l != nil {
		ledgerText(row, l)
	}
	row("peers", "%d connected, %d in the roster", st.Peers, st.Roster)
	switch st.Reach {
	case reachPublic:
		row("reach", "from everywhere")
	case reachRelayed:
		row("reach", "not from outside: those who cannot be dialled directly come over relays (forward a port and name it with --announce to be quicker)")
	case reachUnknown:
		row("reach", "by those who are on this network, and by whom this peer dials; from outside is not known")
	}
	row("traffic", "%s in, %s out", size(int64(st.BytesIn)), size(int64(st.BytesOut)))
	row("blocks", "%s in %d blocks, %s fetched, %s served", size(st.Store.Bytes), st.Store.Blocks, size(int64(st.Exchange.Bytes)), size(int64(st.Exchange.Sent)))
	if c := st.Checkpoint; c.Total > 0 && c.Done < c.Total {
		name := "checkpoint"
		if c.Base {
			name = "base"
		}
		row(name, "%s of %s, %s/s", size(c.Done), size(c.Total), size(int64(c.Rate)))
	}
	for reason, n := range st.Rejections {
		row("refused", "%d: %s", n, reason)
	}
	for _, p := range st.Evicted {
		row("evicted", "%s, for contradicting itself; where the run is paid for, a validator takes of its stake by that (`shoal dispute report`)", p)
	}
	for i, addr := range st.Addrs {
		name := ""
		if i == 0 {
			name = "addresses"
		}
		row(name, "%s", addr)
	}
	return b.String()
}

// words tells who says what in a case.
func words(c *diloco.Case) string {
	var parts []string
	for _, f := range []struct {
		what string
		by   []wire.PeerID
	}{{"pass", c.Pass}, {"wrong", c.Wrong}, {"withheld", c.Withheld}} {
		said := fmt.Sprintf("%d %s", len(f.by), f.what)
		for i, p := range f.by {
			if i == 4 {
				said += " …"
				break
			}
			said += " …" + p.Short()
		}
		parts = append(parts, said)
	}
	return strings.Join(parts, ", ")
}

func (a *app) runsCmd() *cobra.Command {
	var kf keyFlags
	var nf netFlags
	var wait time.Duration
	c := &cobra.Command{
		Use:   "runs",
		Short: "List the runs of the swarm",
		Long:  "Lists what the peer that runs with this data directory has heard of; where none runs, enters the swarm for some seconds and listens.",
		Example: `  shoal runs
  shoal runs --bootstrap /ip4/203.0.113.7/udp/4747/quic-v1/p2p/16Uiu2…`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []node.Listing
			err := control.Dial(a.dir).Get(cmd.Context(), "/runs", &list)
			if errors.Is(err, control.ErrNotRunning) {
				list, err = a.listen(cmd.Context(), &kf, &nf, wait)
			}
			if err != nil {
				return err
			}
			var b strings.Builder
			for _, l := range list {
				fmt.Fprintf(&b, "%-24s %s  round %d  heard from %d peers\n", l.Name, l.Run, l.Round, len(l.Peers))
			}
			if len(list) == 0 {
				a.say("no run was heard of")
				list = []node.Listing{}
			}
			return a.show(list, b.String())
		},
	}
	kf.add(c)
	nf.add(c)
	c.Flags().DurationVar(&wait, "wait", 8*time.Second, "how long to listen")
	return c
}

// listen enters the swarm for a while and returns the runs that it heard of.
func (a *app) listen(ctx context.Context, kf *keyFlags, nf *netFlags, wait time.Duration) (list []node.Listing, err error) {
	s, err := a.enter(nf, func() (*wire.Key, error) { return a.openOrMakeKey(kf) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, errors.New("interrupted")
	case err := <-s.failed:
		return nil, err
	}
	list = s.board.List()
	if len(list) == 0 && len(s.net.Peers()) == 0 {
		return nil, noPeers("list runs")
	}
	return list, nil
}
