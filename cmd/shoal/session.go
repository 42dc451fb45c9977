package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/gossip"
	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/testnet/cheat"
)

// bootstrapEnv names the variable with bootstrap addresses, comma-separated.
const bootstrapEnv = "SHOAL_BOOTSTRAP"

// ipfsClients is how many ordinary IPFS clients may fetch blocks at a time.
const ipfsClients = 32

// netFlags are those of every command that enters the swarm.
type netFlags struct {
	listen, announce, bootstrap []string
	announceOnly                []string
	noMDNS, local               bool
	behindNAT, public           bool
	quota                       int64 // GiB
}

func (n *netFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&n.bootstrap, "bootstrap", nil, "address of a peer to begin with, repeatable (or set "+bootstrapEnv+"); any peer will do")
	f.StringArrayVar(&n.listen, "listen", nil, "address to listen on, repeatable (default UDP and TCP port "+fmt.Sprint(p2p.DefaultPort)+")")
	f.StringArrayVar(&n.announce, "announce", nil, "further address under which others reach this peer, repeatable")
	f.StringArrayVar(&n.announceOnly, "announce-only", nil, "announce nothing but this address, repeatable: that of a forwarder")
	f.BoolVar(&n.noMDNS, "no-mdns", false, "do not look for peers on the local network")
	f.BoolVar(&n.behindNAT, "behind-nat", false, "take a relay at once: this peer cannot be reached from outside")
	f.BoolVar(&n.public, "public", false, "this peer can be reached from outside, by the addresses it listens on")
	f.BoolVar(&n.local, "local", false, "all peers are on this machine or network: no NAT traversal, no penalty for sharing an address")
	f.Int64Var(&n.quota, "quota", 0, "disk for blocks in GiB; 0 is no limit")
}

// config is the host's configuration.
func (n *netFlags) config(a *app, key *wire.Key) p2p.Config {
	boot := slices.Clone(n.bootstrap)
	for s := range strings.SplitSeq(os.Getenv(bootstrapEnv), ",") {
		if s = strings.TrimSpace(s); s != "" {
			boot = append(boot, s)
		}
	}
	c := p2p.Config{
		Key: key, Listen: n.listen, Announce: n.announce, Bootstrap: boot, CachePath: a.path("peers.json"),
		NoMDNS: n.noMDNS, BehindNAT: n.behindNAT, Public: n.public, Clients: ipfsClients, Log: slog.Default(),
	}
	if len(n.announceOnly) > 0 {
		c.Announce, c.AnnounceOnly = n.announceOnly, true
	}
	if n.local {
		c.NoPortMap, c.NoAutoNAT, c.DHT = true, true, p2p.DHTServer
	}
	return c
}

// A session is this peer in the swarm: everything that a node stands on. It
// owns the goroutines of host, exchange and board.
type session struct {
	app    *app
	key    *wire.Key
	host   *p2p.Host
	store  *block.Store
	net    node.Net
	blocks blocks
	board  *node.Board
	policy atomic.Pointer[manifest.Manifest] // whose admission says who is served; nil serves all
	fit    atomic.Pointer[fit]               // how this machine takes part; nil before that is known
	hides  atomic.Pointer[cheat.Liar]        // of a testnet's cheat: what it does not serve

	cancel  context.CancelFunc
	work    sync.WaitGroup
	failed  chan error // the first failure of a part
	unlock  func()
	closers []func() error
}

// enter locks the data directory, opens the key and everything else, and joins
// the swarm. The caller closes the session.
func (a *app) enter(nf *netFlags, key func() (*wire.Key, error)) (s *session, err error) {
	unlock, err := a.lock()
	if err != nil {
		return nil, err
	}
	s = &session{app: a, unlock: unlock, failed: make(chan error, 3), cancel: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.key, err = key(); err != nil {
		return s, err
	}
	if err := s.openStore(nf.quota << 30); err != nil {
		return s, err
	}
	if s.host, err = p2p.New(nf.config(a, s.key)); err != nil {
		if errors.Is(err, p2p.ErrPortInUse) {
			return s, advise(err, "stop the other node, or choose a port: --listen /ip4/0.0.0.0/udp/0/quic-v1 --listen /ip4/0.0.0.0/tcp/0")
		}
		return s, err
	}
	s.closers = append(s.closers, s.host.Close)
	gc := gossip.Config{StatePath: a.path("gossip.seq"), Log: slog.Default()}
	if nf.local {
		gc.Colocation = -1
	}
	g, err := gossip.New(s.host, gc)
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, g.Close)
	if s.blocks.exchange, err = block.NewExchange(s.host, s.store, s.serves); err != nil {
		return s, err
	}
	s.blocks.exchange.OnMisbehaviour(func(p wire.PeerID, reason string) {
		slog.Warn("banned", "peer", p, "reason", reason)
		s.host.Ban(p)
	})
	s.net = swarmNet{s.host, g}
	if s.board, err = node.NewBoard(s.net, slog.Default()); err != nil {
		return s, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	for name, run := range map[string]func(context.Context) error{
		"host": s.host.Run, "block exchange": s.blocks.exchange.Run, "board of runs": s.board.Run,
	} {
		s.work.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				s.failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	return s, nil
}

// openStore opens the data directory's blocks.
func (s *session) openStore(quota int64) error {
	store, err := block.Open(s.app.dir, block.Options{Quota: quota, Log: slog.Default()})
	if err != nil {
		return fmt.Errorf("open the block store: %w", err)
	}
	s.store, s.blocks = store, blocks{store: store}
	s.closers = append(s.closers, store.Close)
	return nil
}

// offline opens the data directory's blocks without a network.
func (a *app) offline() (*session, error) {
	unlock, err := a.lock()
	if err != nil {
		return nil, err
	}
	s := &session{app: a, unlock: unlock, cancel: func() {}}
	if err := s.openStore(0); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close ends everything in the reverse order of its making.
func (s *session) close() error {
	s.cancel()
	s.work.Wait()
	var errs []error
	for _, f := range slices.Backward(s.closers) {
		errs = append(errs, f())
	}
	s.unlock()
	return errors.Join(errs...)
}

// How others reach a peer.
const (
	reachPublic  = "public"  // at its own addresses, from everywhere
	reachRelayed = "relayed" // not from outside but over relays
	reachUnknown = "unknown" // perhaps on the local network only
)

// reach says how others reach this peer, as far as is known.
func (s *session) reach() string {
	switch {
	case s.host.Public():
		return reachPublic
	case slices.ContainsFunc(s.host.Addrs(), func(a string) bool { return strings.Contains(a, "/p2p-circuit") }):
		return reachRelayed
	}
	return reachUnknown
}

// serves is the policy of the block exchange: a run for a closed list serves
// that list, any other everybody.
func (s *session) serves(p wire.PeerID, c wire.CID) bool {
	if l := s.hides.Load(); l != nil && !l.Serves(c) {
		return false
	}
	m := s.policy.Load()
	if m == nil || m.Admission.Kind != "allow" {
		return true
	}
	addr, err := p.Address()
	return err == nil && m.Admission.Allows(addr)
}

// nameable refuses what no run can be called, before it is paid or listened for.
func nameable(name string) error {
	if _, err := wire.ParseCID(name); err == nil || manifest.IsName(name) {
		return nil
	}
	err := fmt.Errorf("%.100q is no run's name (a-z, 0-9 and -) or CID", name)
	if fi, serr := os.Stat(name); serr == nil {
		what := map[bool]string{true: "directory", false: "file"}[fi.IsDir()]
		err = fmt.Errorf("%q is a %s, and no run's name or CID", name, what)
	}
	return usageError{err, "`shoal runs` lists the runs of the swarm, `shoal manifest cid FILE` prints a manifest's"}
}

// find turns what the user typed, a CID or a name, into a run. A name is first
// looked for in this data directory and then heard of in the swarm, for at
// most patience.
func (s *session) find(ctx context.Context, name string, patience time.Duration) (wire.CID, error) {
	if c, err := wire.ParseCID(name); err == nil {
		if c.Codec() != wire.CodecDagCBOR {
			return "", advise(fmt.Errorf("%s is a CID, but not of a run", name), "a run's CID begins with bafy; `shoal runs` lists those of the swarm")
		}
		return c, nil
	}
	if m, c := s.local(ctx); m != nil && m.Name == name {
		return c, nil
	}
	if s.net == nil {
		return "", advise(fmt.Errorf("no run called %q is in %s", name, s.app.dir), "give its CID")
	}
	s.app.say("listening for a run called %q", name)
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	var first time.Time // that the name was heard: another of that name may follow
	for {
		var same []node.Listing
		all := s.board.List()
		for _, l := range all {
			if l.Name == name {
				same = append(same, l)
			}
		}
		if len(same) > 0 && first.IsZero() {
			first = time.Now()
		}
		if len(same) > 1 {
			var list strings.Builder
			for _, l := range same {
				fmt.Fprintf(&list, "\n    %s  round %d, %d peers", l.Run, l.Round, len(l.Peers))
			}
			return "", advise(fmt.Errorf("%d runs are called %q:%s", len(same), name, list.String()), "join one by its CID")
		}
		if len(same) == 1 && time.Since(first) > 2*time.Second {
			return same[0].Run, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", errors.New("interrupted")
		case err := <-s.failed:
			return "", err
		case <-limit.C:
			if len(s.net.Peers()) == 0 {
				return "", noPeers(name)
			}
			if off := s.board.Skew(); off != 0 {
				return "", advise(fmt.Errorf("nobody announced a run called %q within %s: %s", name, patience, skewed(off)), "set this machine's clock, or give the run's CID")
			}
			heard := ""
			for _, l := range all {
				heard += "\n    " + l.Name + "  " + l.Run.String()
			}
			if heard == "" {
				heard = " no run at all"
			}
			return "", advise(fmt.Errorf("nobody announced a run called %q within %s; heard of:%s", name, patience, heard),
				"check the spelling, give the run's CID, or --bootstrap with a peer of the run")
		}
	}
}

// skewed says that this machine's clock is off, and by how much.
func skewed(ahead time.Duration) string {
	side := "behind"
	if ahead < 0 {
		side = "ahead of"
	}
	return fmt.Sprintf("this machine's clock is %s %s those of its peers, which hear no announcement of one another then", ahead.Abs().Round(time.Minute), side)
}

func noPeers(what string) error {
	return advise(fmt.Errorf("%s: no peer was found", what),
		"give the address of any peer with --bootstrap /ip4/…/p2p/16Uiu2… (`shoal status` on its machine prints it)")
}

// local is the run that this data directory has taken part in, nil if none.
func (s *session) local(ctx context.Context) (*manifest.Manifest, wire.CID) {
	pins, err := s.blocks.Pins()
	if err != nil {
		return nil, ""
	}
	c := pins["run/manifest"]
	if !c.Defined() {
		return nil, ""
	}
	b, err := s.store.Get(ctx, c)
	if err != nil {
		return nil, ""
	}
	m, err := manifest.Decode(b)
	if err != nil {
		return nil, ""
	}
	return m, c
}

// threads is how many threads compute: as asked, or one for each core.
const maxThreads = 1024 // that compute

func threads(n int) int {
	if n <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return n
}
