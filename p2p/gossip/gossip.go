// Package gossip spreads small signed messages among the peers of a run and
// lets each be judged before it is passed on.
//
// It is gossipsub v1.1 with strict signatures under names of our own:
//
//	/shoal/1/runs        announcements of runs
//	/shoal/1/run/<CID>   everything about the run with this manifest
//	/shoal/1/run/<CID>/settle   validators' signatures for the run's ledger
//
// A message arrives, its libp2p signature and its sequence number are checked,
// and the topic's judge says accept (relay and deliver), ignore (drop) or
// reject (drop, and the peer that passed it on loses score; a few such, and it
// is cut off). A judge must reject only what every honest peer would reject
// whatever it has seen so far, else honest relays are punished.
//
// What is delivered is bounded in size (MaxData), and so is what is waiting:
// messages beyond the queues are dropped and counted. Gossip may lose
// messages; whoever needs one asks again.
//
// # Replay
//
// gossipsub forgets what it has seen after minutes. Therefore each author's
// sequence numbers are kept in a sliding window (as IPsec does, RFC 4303
// section 3.4.3): a message is dropped if its number was accepted before or is
// older than the window. The windows survive a restart in a file:
//
//	"shoalsq1" ‖ count (4 bytes) ‖ count × (author (33) ‖ top (8) ‖ window (32) ‖ last accepted (8, Unix seconds)) ‖ sha256 of all before (32)
//
// with little-endian integers.
package gossip

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/wire"
)

// RunsTopic carries announcements of runs.
const RunsTopic = p2p.Prefix + "/runs"

const runTopicPrefix = p2p.Prefix + "/run/"

// settleSuffix makes the topic of a run's settlement of the run's.
const settleSuffix = "/settle"

// SettleTopic returns the topic of what a run's validators sign for its ledger.
func SettleTopic(run wire.CID) string { return RunTopic(run) + settleSuffix }

// RunTopic returns the topic of one run.
func RunTopic(run wire.CID) string { return runTopicPrefix + run.String() }

// MaxData bounds one message's payload in bytes.
const MaxData = wire.MaxMessage

// overhead is room for author, signature, topic and control messages.
const overhead = 8 << 10

// ErrTooLarge is returned by Publish; gossipsub itself would drop the message
// without a word.
var ErrTooLarge = errors.New("message is too large for gossip")

// ErrClosed is returned by methods of a closed Gossip or Topic.
var ErrClosed = errors.New("gossip is closed")

// Config tunes a Gossip. The zero value is right for the internet.
type Config struct {
	// StatePath is the file that keeps the sequence numbers seen. Empty: they
	// are forgotten with the process.
	StatePath string

	// Colocation is how many peers of one IP address are normal; each above it
	// costs all of them score, quadratically. 0 means 8. Negative switches the
	// penalty off. Loopback addresses never cost anything.
	Colocation int

	// Workers is how many messages are judged at once; default the number of
	// CPUs, at least 2. Queue is how many wait for that; default 512.
	Workers, Queue int

	// Buffer is how many accepted messages wait for Next on one topic; more are
	// dropped and counted as undelivered. Default 1024.
	Buffer int

	// Score adds to a peer's score: stake, reputation; 0 for a stranger. It
	// must be quick and safe for concurrent use. nil: nobody gets anything.
	Score func(wire.PeerID) float64

	// Heartbeat is how often the mesh is mended. Default 1 s.
	Heartbeat time.Duration

	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Gossip is one peer's part in all its topics.
type Gossip struct {
	host   *p2p.Host
	cfg    Config
	log    *slog.Logger
	ps     *pubsub.PubSub
	count  *counts
	filter *filter
	replay *replay
	scores atomic.Pointer[map[wire.PeerID]float64]

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards following
	topics map[string]*Topic
	closed bool
}

// A Judge says what to do with a message of author from, before it is relayed.
// It must be quick (it holds one of Config.Workers), end when ctx does, and be
// safe for concurrent use. It is not asked about the peer's own messages.
type Judge func(ctx context.Context, from wire.PeerID, data []byte) wire.Judgement

// New starts gossip on h. It ends with Close or with the host.
func New(h *p2p.Host, c Config) (*Gossip, error) {
	if c.Colocation == 0 {
		c.Colocation = 8
	}
	if c.Workers <= 0 {
		c.Workers = max(2, runtime.NumCPU())
	}
	if c.Queue <= 0 {
		c.Queue = 512
	}
	if c.Buffer <= 0 {
		c.Buffer = 1024
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	g := &Gossip{host: h, cfg: c, log: c.Log, count: newCounts(), filter: newFilter(), topics: make(map[string]*Topic)}
	g.replay = loadReplay(c.StatePath, c.Log, time.Now())
	g.warnOfClock(time.Now())
	g.scores.Store(&map[wire.PeerID]float64{})
	g.ctx, g.cancel = context.WithCancel(h.Context())

	params := pubsub.DefaultGossipSubParams()
	if c.Heartbeat > 0 {
		params.HeartbeatInterval = c.Heartbeat
	}
	ps, err := pubsub.NewGossipSub(g.ctx, h.Libp2p(),
		pubsub.WithMessageSignaturePolicy(pubsub.StrictSign),
		pubsub.WithMessageIdFn(messageID),
		pubsub.WithGossipSubParams(params),
		pubsub.WithFloodPublish(true),
		pubsub.WithPeerExchange(true),
		pubsub.WithMaxMessageSize(MaxData+overhead),
		pubsub.WithPeerScore(scoreParams(&c), thresholds()),
		pubsub.WithPeerScoreInspect(g.inspect, 5*time.Second),
		pubsub.WithSubscriptionFilter(g.filter),
		pubsub.WithPeerFilter(g.admits),
		pubsub.WithSeenMessagesTTL(5*time.Minute),
		pubsub.WithPeerOutboundQueueSize(256),
		pubsub.WithValidateQueueSize(c.Queue),
		pubsub.WithValidateWorkers(c.Workers),
		pubsub.WithRawTracer(&tracer{g.count}),
	)
	if err != nil {
		g.cancel()
		return nil, fmt.Errorf("start gossipsub: %w", err)
	}
	g.ps = ps
	for _, p := range h.Banned() {
		ps.BlacklistPeer(p2p.FromWire(p))
	}
	h.OnBan(func(p wire.PeerID) { ps.BlacklistPeer(p2p.FromWire(p)) })
	g.wg.Go(g.keepReplay)
	g.wg.Go(g.keepMended)
	return g, nil
}

// messageID names a message by topic, author, number and content.
func messageID(m *pb.Message) string {
	h := sha256.New()
	h.Write([]byte(m.GetTopic()))
	h.Write([]byte{0})
	h.Write(m.GetFrom())
	h.Write(m.GetSeqno())
	h.Write(m.GetData())
	return string(h.Sum(nil)[:20])
}

// admits is pubsub's peer filter: guests of AutoNAT and peers that the host
// refuses take no part in any topic.
func (g *Gossip) admits(id peer.ID, _ string) bool {
	p, err := p2p.ToWire(id)
	return err == nil && g.host.Admits(p)
}

func (g *Gossip) inspect(scores map[peer.ID]float64) {
	out := make(map[wire.PeerID]float64, len(scores))
	for id, s := range scores {
		if p, err := p2p.ToWire(id); err == nil {
			out[p] = s
		}
	}
	g.scores.Store(&out)
}

// Scores returns what gossipsub thinks of each peer, at most 5 s old.
func (g *Gossip) Scores() map[wire.PeerID]float64 { return *g.scores.Load() }

// warnOfClock tells the user if others will take this peer's messages for
// replays: gossipsub numbers messages from the clock, and the clock went back.
func (g *Gossip) warnOfClock(now time.Time) {
	if last := g.replay.top(g.host.Peer()); last > uint64(now.UnixNano()) {
		back := time.Duration(last - uint64(now.UnixNano()))
		g.log.Warn("this machine's clock went back since the last run: other peers ignore our messages until they forget us", "back", back.Round(time.Second), "forget", replayMemory)
	}
}

// keepReplay saves the sequence numbers once a minute and at the end.
func (g *Gossip) keepReplay() {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for done := false; !done; {
		select {
		case <-t.C:
		case <-g.ctx.Done():
			done = true
		}
		if err := g.replay.save(time.Now()); err != nil {
			g.log.Warn("save gossip sequence numbers", "err", err)
		}
	}
}

// Close leaves every topic and waits for what New started.
func (g *Gossip) Close() error {
	g.mu.Lock()
	g.closed = true
	topics := make([]*Topic, 0, len(g.topics))
	for _, t := range g.topics {
		topics = append(topics, t)
	}
	g.mu.Unlock()
	var errs []error
	for _, t := range topics {
		errs = append(errs, t.Close())
	}
	g.cancel()
	g.wg.Wait()
	return errors.Join(errs...)
}

// validTopic reports whether name is a topic of this version.
func validTopic(name string) bool {
	if name == RunsTopic {
		return true
	}
	run, ok := strings.CutPrefix(name, runTopicPrefix)
	if !ok {
		return false
	}
	run = strings.TrimSuffix(run, settleSuffix)
	c, err := wire.ParseCID(run)
	return err == nil && c.String() == run
}
