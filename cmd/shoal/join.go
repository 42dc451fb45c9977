package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/chain/agent"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/control"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/testnet/cheat"
)

const (
	hearing = time.Minute      // how long a run's name is listened for
	leaving = 10 * time.Second // how long a graceful leave may take
	redraw  = 250 * time.Millisecond
)

// takeFlags are those of the commands that take part in a run.
type takeFlags struct {
	threads int
	engine  string
	role    string
	observe bool
	prune   bool
	http    string
	once    bool
	cheat   string
	chain   bool
	stake   string
}

func (t *takeFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.IntVar(&t.threads, "threads", 0, "threads that compute (default: what a short measurement finds best)")
	f.StringVar(&t.engine, "engine", inProcess, "what trains: "+inProcess+", worker (a process of its own), unix:SOCKET or exec:COMMAND (see shoal worker --help)")
	f.StringVar(&t.role, "role", node.RoleTrainer, "trainer, or validator: audits what trainers do instead of training")
	f.BoolVar(&t.observe, "observe", false, "follow and serve the run without training")
	f.BoolVar(&t.prune, "prune", false, "forget old payloads: less disk, but the lineage cannot be recomputed from here")
	f.StringVar(&t.http, "http", "", "serve status and metrics on this loopback address, too, e.g. 127.0.0.1:9447")
	f.StringVar(&t.cheat, "cheat", "", "KIND[:ROUND]: lie, to try the audits of a testnet; needs --local. Kinds: "+cheat.Names())
	f.Lookup("cheat").Hidden = true
	f.BoolVar(&t.once, "exit-when-done", false, "leave when the run is over instead of serving its model")
	f.BoolVar(&t.chain, "chain", true, "be paid by, and as a validator serve, the ledger of "+chainFile+", where that file is")
	f.StringVar(&t.stake, "stake", "", "see first that so many tokens are staked in this role on that ledger; what is missing is taken from this peer's account")
}

// liar checks the flags and returns what lies for this peer, nil for the honest. Lies are for testnets:
// all peers must be local.
func (t *takeFlags) liar(nf *netFlags) (*cheat.Liar, error) {
	if err := t.check(); err != nil || t.cheat == "" {
		return nil, err
	}
	kind, from, err := cheat.Parse(t.cheat)
	if err != nil {
		return nil, usageError{err, ""}
	}
	if !nf.local {
		return nil, usagef("--cheat is for testnets on one machine: without --local it is refused")
	}
	for _, addr := range slices.Concat(nf.listen, nf.bootstrap, nf.announceOnly) {
		if !strings.HasPrefix(addr, "/ip4/127.") && !strings.HasPrefix(addr, "/ip6/::1/") {
			return nil, usagef("--cheat is for testnets on one machine: %s is not a loopback address", addr)
		}
	}
	if len(nf.listen) == 0 || !nf.noMDNS {
		return nil, usagef("--cheat is for testnets on one machine: give --no-mdns and a loopback address to --listen on")
	}
	return cheat.New(kind, from), nil
}

// check refuses flags that do not go together.
func (t *takeFlags) check() error {
	switch {
	case t.role != node.RoleTrainer && t.role != node.RoleValidator:
		return usagef("--role %q: want %s or %s", t.role, node.RoleTrainer, node.RoleValidator)
	case t.role == node.RoleValidator && t.observe:
		return usagef("--role %s and --observe exclude one another: an observer says nothing", t.role)
	case t.stake != "" && (t.observe || !t.chain):
		return usagef("--stake is for who works and is paid: not with --observe or --chain=false")
	}
	if t.http != "" {
		if _, err := loopback(t.http); err != nil {
			return err
		}
	}
	if t.stake != "" {
		if _, err := spending(t.stake); err != nil {
			return fmt.Errorf("--stake: %w", err)
		}
	}
	_, err := spawner(context.Background(), t.engine)
	return err
}

func (a *app) joinCmd() *cobra.Command {
	var kf keyFlags
	var nf netFlags
	var tf takeFlags
	c := &cobra.Command{
		Use:   "join RUN",
		Short: "Take part in a run",
		Long: `Finds the run, fetches its model from many peers at once, checks it, and trains from
the next round on. RUN is a CID, or a name that somebody in the swarm announces.

A short measurement tells how the machine fits the run: threads, how activations are
kept in the memory that is free, and how many inner steps are done before a round's
deadline ("shoal status" shows it). What a step computes is the manifest's.

The first join makes a key. Ctrl-C leaves cleanly, a second Ctrl-C at once; after a
crash the same command goes on where it was.`,
		Example: `  shoal join moby --bootstrap /ip4/203.0.113.7/udp/4747/quic-v1/p2p/16Uiu2…
  shoal join bafyreia…                # on the local network, or from remembered peers
  shoal join moby --threads 4 --json  # one status a line, for scripts
  shoal join moby --role validator    # replay what trainers claim, and say what you find
  shoal join moby --role validator --stake 1000
  shoal join moby --observe           # follow and serve, do not train`,
		Args: exactly("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := tf.liar(&nf)
			if err != nil {
				return err
			}
			if err := errors.Join(tf.check(), nameable(args[0])); err != nil {
				return err
			}
			if err := a.stakeFirst(cmd.Context(), kf, tf); err != nil {
				return err
			}
			s, err := a.enter(&nf, func() (*wire.Key, error) { return a.openOrMakeKey(&kf) })
			if err != nil {
				return err
			}
			run, err := s.find(cmd.Context(), args[0], hearing)
			if err == nil {
				err = s.take(cmd.Context(), run, nil, tf, l)
			}
			return errors.Join(err, s.close())
		},
	}
	kf.add(c)
	nf.add(c)
	tf.add(c)
	return c
}

func (a *app) publishCmd() *cobra.Command {
	var kf keyFlags
	var nf netFlags
	var tf takeFlags
	var join bool
	var fund fundFlags
	c := &cobra.Command{
		Use:   "publish MANIFEST",
		Short: "Put a run into the swarm",
		Long: `Stores the manifest as a block, announces it and serves it, with its tokenizer and data,
until interrupted. With --join this peer also takes part. The data must have been
prepared in this data directory (shoal data prepare).

--fund puts the run on the ledger of ` + chainFile + ` first, with the manifest's budget, split
and shares, and pays into its pool what this account has not paid in before: to start the
same command again costs nothing. This peer's key must have signed the manifest.`,
		Example: `  shoal publish run.yaml --join
  shoal publish run.yaml               # serve only; others can take over once they hold it
  shoal publish run.yaml --join --fund 1000 --epoch 1h`,
		Args: exactly("MANIFEST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := tf.liar(&nf)
			if err != nil {
				return err
			}
			if err := errors.Join(tf.check(), fund.check(cmd)); err != nil {
				return err
			}
			m, run, err := readManifest(args[0])
			if err != nil {
				return err
			}
			if fund.amount != "" {
				if err := a.fundFirst(cmd.Context(), kf, args[0], fund); err != nil {
					return err
				}
			}
			if err := a.stakeFirst(cmd.Context(), kf, tf); err != nil {
				return err
			}
			s, err := a.enter(&nf, func() (*wire.Key, error) { return a.openOrMakeKey(&kf) })
			if err != nil {
				return err
			}
			err = s.publish(cmd.Context(), m, run)
			if err == nil {
				tf.observe = tf.observe || !join
				err = s.take(cmd.Context(), run, m, tf, l)
			}
			return errors.Join(err, s.close())
		},
	}
	kf.add(c)
	nf.add(c)
	tf.add(c)
	c.Flags().BoolVar(&join, "join", false, "take part in the run, too")
	c.Flags().StringVar(&fund.amount, "fund", "", "see first that this account has paid so many tokens into the run's pool, in all, and put the run on the ledger where it is not there")
	fund.add(c)
	return c
}

// publish makes sure that this peer can serve all that the run starts from.
func (s *session) publish(ctx context.Context, m *manifest.Manifest, run wire.CID) error {
	if c := m.Model.Base; c.Defined() && !s.store.Has(c) {
		return advise(fmt.Errorf("the manifest's model.base %s is not in %s", c, s.app.dir), "`shoal manifest init --from DIR` puts it there; or join the run instead if others serve it")
	} else if c.Defined() {
		files, err := s.blocks.filesOf(ctx, c, maxTokenizer, node.ConfigFile)
		if err == nil {
			err = node.CheckBase(files[node.ConfigFile], m.Model.Config.HF())
		}
		if err != nil {
			return advise(fmt.Errorf("the manifest's model.base %s: %w", c, err), "model.config says how the model computes: leave it as `shoal manifest init --from DIR` wrote it, or change config.json in DIR and run that again")
		}
	}
	for what, c := range map[string]wire.CID{"tokenizer": m.Tokenizer, "data": m.Data} {
		if !c.Defined() {
			return advise(fmt.Errorf("the manifest names no %s", what), "shoal data prepare TEXT --into MANIFEST puts it there")
		}
		if !s.store.Has(c) {
			return advise(fmt.Errorf("the manifest's %s %s is not in %s", what, c, s.app.dir),
				"prepare the data in this directory (shoal data prepare), or join the run instead if others serve it")
		}
	}
	block, err := m.Encode()
	if err != nil {
		return err
	}
	if _, err := s.blocks.Put(ctx, wire.CodecDagCBOR, block); err != nil {
		return fmt.Errorf("store the manifest: %w", err)
	}
	s.app.say("published %s  %s\n  others join with: shoal join %s --bootstrap ADDRESS, where ADDRESS is one of", m.Name, run, m.Name)
	for _, addr := range s.host.Addrs() {
		s.app.say("    %s", addr)
	}
	return nil
}

// status is what the control socket says: the node's word, the addresses to
// give to others, and what the blocks cost.
type status struct {
	node.Status
	Addrs    []string            `json:"addrs"`
	Exchange block.ExchangeStats `json:"exchange"`
	Store    block.Usage         `json:"store"`
	Ledger   *agent.Status       `json:"ledger,omitempty"`
	Machine  *fit                `json:"machine,omitempty"` // as it was measured when it joined
	Reach    string              `json:"reach"`             // how others reach this peer, see session.reach
	Skew     time.Duration       `json:"skew_ns,omitempty"` // how far the clocks of others are ahead, where that matters
}

// take runs a node of the run until it has left. The first interrupt, which
// ends ctx, lets it leave in order. liar is nil for the honest.
func (s *session) take(ctx context.Context, run wire.CID, m *manifest.Manifest, tf takeFlags, liar *cheat.Liar) error {
	if old, c := s.local(ctx); old != nil && c != run {
		return advise(fmt.Errorf("the data directory %s belongs to the run %s (%s)", s.app.dir, old.Name, c),
			"take part in another run with another --dir")
	} else if old != nil {
		s.policy.Store(old)
	}
	if m != nil {
		s.policy.Store(m)
	}
	var c *counter
	if tf.chain {
		d, err := s.app.deployed()
		if err != nil {
			return err
		}
		if d != nil {
			c = newCounter(d)
		}
	}
	opt := node.Options{
		Dir: s.app.dir, Key: s.key, Run: run, Manifest: m, Net: s.net, Blocks: s.blocks, Board: s.board,
		Engine: func(ctx context.Context, m *manifest.Manifest) (node.Engine, error) {
			s.policy.Store(m)
			if c != nil {
				c.known <- m // once, and there is room
			}
			return s.fitted(ctx, m, tf)
		},
		Role: tf.role, Observe: tf.observe, Prune: tf.prune, ExitWhenDone: tf.once, Log: slog.Default(),
	}
	if liar != nil {
		opt.Net, opt.Blocks, opt.Engine = liar.Net(opt.Net), liar.Blocks(opt.Blocks), liar.Engine(opt.Engine)
		opt.Lie = liar.Verdict
		s.hides.Store(liar)
	}
	if c != nil {
		opt.Payer, opt.Stake = c, c.stake
	}
	n, err := node.New(opt)
	if err != nil {
		return err
	}
	if liar != nil {
		liar.Follow(s.key, n.Status)
	}
	var beside []func(context.Context)
	if c != nil {
		beside = append(beside, func(ctx context.Context) { s.settle(ctx, c, run, n, tf.role) })
	}
	return s.live(ctx, n, c, tf, beside...)
}

// fitted is the run's engine as it fits this machine.
func (s *session) fitted(ctx context.Context, m *manifest.Manifest, tf takeFlags) (node.Engine, error) {
	n := m.Model.Config.HF().NumParams()
	thrifty(nodeMemory(n, false))
	if free := freeDisk(s.app.dir); free > 0 {
		if err := diskFits(fmt.Sprintf("the states of %s, %s parameters, of five rounds", m.Name, count(float64(n))), s.app.dir, nodeDisk(n), free+s.store.Usage().Bytes); err != nil {
			return nil, err
		}
	}
	if tf.observe {
		return newEngine(m, threads(tf.threads)), refusal(m, 0, true, freeMemory()) // it only follows
	}
	foreign := tf.engine != inProcess && tf.engine != inWorker
	f := s.app.fitTo(ctx, m, tf.threads, foreign)
	s.fit.Store(&f)
	s.app.say("this machine: %s", &f)
	for _, d := range f.doubts() {
		s.app.say("note: %s", d)
	}
	compute, free := f.Memory, f.Free
	if foreign { // of which there is a copy of the weights here
		compute, free = 4*n, freeMemory()
	}
	if err := refusal(m, compute, false, free); err != nil {
		return nil, err
	}
	spawn, err := spawner(ctx, tf.engine, f.args()...)
	if err != nil {
		return nil, err
	}
	return f.engine(m).within(spawn), nil
}

// live runs the node with all that accompanies it. What is beside it ends with it.
func (s *session) live(ctx context.Context, n *node.Node, c *counter, tf takeFlags, beside ...func(context.Context)) error {
	own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel(nil)

	leave := func() {
		n.Leave()
		time.AfterFunc(leaving, func() { cancel(errors.New("leaving took too long")) })
	}
	defer context.AfterFunc(ctx, func() {
		s.app.say("\nleaving; a second Ctrl-C stops at once")
		leave()
	})()

	st := func() status {
		return status{n.Status(), s.host.Addrs(), s.blocks.exchange.Stats(), s.store.Usage(), c.status(), s.fit.Load(), s.reach(), s.board.Skew()}
	}
	h := control.Handler{
		Status: func() any { return st() }, Runs: func() any { return s.board.List() },
		Metrics: metrics(n.Status), Leave: leave,
	}
	work.Go(func() {
		if err := control.Serve(own, s.app.dir, h.Mux()); err != nil {
			cancel(err)
		}
	})
	if tf.http != "" {
		if err := s.serveHTTP(own, &work, tf.http, h.Mux(), cancel); err != nil {
			return err
		}
	}
	work.Go(func() {
		select {
		case err := <-s.failed:
			cancel(err)
		case <-own.Done():
		}
	})
	for _, f := range beside {
		work.Go(func() { f(own) })
	}
	work.Go(func() { s.watch(own, n, tf.once) })
	err := n.Run(own)
	if cause := context.Cause(own); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

func loopback(addr string) (*net.TCPAddr, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil || !a.IP.IsLoopback() {
		return nil, usagef("--http %q: want a loopback address and port such as 127.0.0.1:9447: whoever reaches it can make this peer leave", addr)
	}
	return a, nil
}

// serveHTTP serves the control handler on a loopback address.
func (s *session) serveHTTP(ctx context.Context, work *sync.WaitGroup, addr string, h http.Handler, fail func(error)) error {
	a, err := loopback(addr)
	if err != nil {
		return err
	}
	ln, err := net.ListenTCP("tcp", a)
	if err != nil {
		return advise(fmt.Errorf("--http: %w", err), "choose another port")
	}
	work.Go(func() {
		if err := control.ServeOn(ctx, ln, h); err != nil {
			fail(err)
		}
	})
	return nil
}

// watch tells the user how the node stands until ctx ends.
func (s *session) watch(ctx context.Context, n *node.Node, once bool) {
	r := &joinReport{screen: s.app.screen(), started: time.Now(), once: once}
	defer r.clear()
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if st := n.Status(); st.Done { // who leaves by itself does so before the next look
				r.tell(st)
			}
			return
		case <-tick.C:
			r.tell(n.Status())
		}
	}
}
