package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	lcrypto "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
	"google.golang.org/protobuf/proto"
)

// attacker speaks gossipsub by hand, so that it can say what pubsub would not.
type attacker struct {
	t   *testing.T
	h   *p2p.Host
	key lcrypto.PrivKey
	out network.Stream
	seq uint64
}

func newAttacker(t *testing.T, h *p2p.Host, key *wire.Key, victim *p2p.Host) *attacker {
	t.Helper()
	sk, err := lcrypto.UnmarshalSecp256k1PrivateKey(key.Secret())
	if err != nil {
		t.Fatal(err)
	}
	h.Libp2p().SetStreamHandler(pubsub.GossipSubID_v11, func(s network.Stream) {
		buf := make([]byte, 4096)
		for {
			if _, err := s.Read(buf); err != nil {
				return
			}
		}
	})
	if err := h.Connect(t.Context(), victim.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	s, err := h.Libp2p().NewStream(t.Context(), p2p.FromWire(victim.Peer()), pubsub.GossipSubID_v11)
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{t: t, h: h, key: sk, out: s, seq: 1000}
	a.send(&pb.RPC{}) // else the stream is given up
	return a
}

// message signs data under key as gossipsub does.
func (a *attacker) message(key lcrypto.PrivKey, seq uint64, data []byte) *pb.Message {
	a.t.Helper()
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	topic := run
	m := &pb.Message{From: []byte(id), Seqno: binary.BigEndian.AppendUint64(nil, seq), Data: data, Topic: &topic}
	b, err := proto.Marshal(m)
	if err != nil {
		a.t.Fatal(err)
	}
	if m.Signature, err = key.Sign(append([]byte(pubsub.SignPrefix), b...)); err != nil {
		a.t.Fatal(err)
	}
	return m
}

// next is a well-formed message of the attacker's own.
func (a *attacker) next(data string) *pb.Message {
	a.seq++
	return a.message(a.key, a.seq, []byte(data))
}

func (a *attacker) send(rpc *pb.RPC) {
	a.t.Helper()
	b, err := proto.Marshal(rpc)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.out.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...)); err != nil {
		a.t.Logf("send: %v", err) // the victim has had enough
	}
}

// say sends messages and lets them arrive.
func (a *attacker) say(m ...*pb.Message) {
	a.t.Helper()
	a.send(&pb.RPC{Publish: m})
	time.Sleep(time.Second)
}

// judgeByText accepts, ignores or rejects as the message says.
func judgeByText(_ context.Context, _ wire.PeerID, data []byte) wire.Judgement {
	switch {
	case strings.HasPrefix(string(data), "bad"):
		return wire.Reject
	case strings.HasPrefix(string(data), "dull"):
		return wire.Ignore
	}
	return wire.Accept
}

// hostile makes a victim (0), an honest peer (1) connected to it, and an
// attacker (2) connected to the victim only.
func hostile(t *testing.T, state string) (net *p2ptest.Net, victim, honest *node, a *attacker) {
	net = p2ptest.New(t, p2ptest.Options{Delay: 10 * time.Millisecond})
	v := net.Start(0)
	h := net.Start(1, p2ptest.Addr(0))
	victim = join(t, v, Config{StatePath: state}, judgeByText)
	honest = join(t, h, Config{}, acceptAll)
	a = newAttacker(t, net.Start(2), p2ptest.Key(2), v)
	time.Sleep(10 * time.Second)
	return net, victim, honest, a
}

func TestJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, victim, honest, a := hostile(t, "")
		score := func() float64 {
			time.Sleep(6 * time.Second) // scores are inspected every 5 s
			return victim.g.Scores()[p2ptest.Key(2).Peer()]
		}
		start := score()
		a.say(a.next("good"), a.next("dull"))
		if !victim.got("good") || !honest.got("good") {
			t.Error("an accepted message was not delivered and relayed")
		}
		if victim.got("dull") || honest.got("dull") {
			t.Error("an ignored message was delivered or relayed")
		}
		fair := score()
		if fair < start {
			t.Errorf("score fell from %v to %v for an ignored message", start, fair)
		}
		a.say(a.next("bad"))
		if victim.got("bad") || honest.got("bad") {
			t.Error("a rejected message was delivered or relayed")
		}
		low := score()
		if low > -100 {
			t.Errorf("score after a rejected message is %v, before %v", low, fair)
		}
		a.say(a.next("still good"))
		if !victim.got("still good") {
			t.Error("one rejected message made a peer mute")
		}
		for range 3 {
			a.say(a.next("bad"))
		}
		if s := score(); s > thresholds().GraylistThreshold {
			t.Errorf("score after four rejected messages is %v", s)
		}
		a.say(a.next("too late"))
		if victim.got("too late") {
			t.Error("a graylisted peer is heard")
		}
		r := victim.g.Counters().Rejected
		if r["rejected by judge"] != 4 || r["ignored by judge"] != 1 {
			t.Errorf("counters: %v", r)
		}
	})
}

// Messages that no honest peer sends are refused before the judge sees them.
func TestRefused(t *testing.T) {
	ed, _, err := lcrypto.GenerateEd25519Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	for reason, craft := range map[string]func(a *attacker) *pb.Message{
		"size": func(a *attacker) *pb.Message {
			return a.next(strings.Repeat("x", MaxData+1))
		},
		"sequence number": func(a *attacker) *pb.Message {
			m := a.next("x")
			m.Seqno, m.Signature = m.Seqno[:7], nil
			b, _ := proto.Marshal(m)
			m.Signature, _ = a.key.Sign(append([]byte(pubsub.SignPrefix), b...))
			return m
		},
		"author is not a secp256k1 peer": func(a *attacker) *pb.Message {
			m := a.message(ed, 5, []byte("x"))
			return m
		},
		pubsub.RejectInvalidSignature: func(a *attacker) *pb.Message {
			m := a.next("x")
			m.Data = []byte("y")
			return m
		},
		pubsub.RejectMissingSignature: func(a *attacker) *pb.Message {
			m := a.next("x")
			m.Signature = nil
			return m
		},
		pubsub.RejectSelfOrigin: func(a *attacker) *pb.Message {
			m := a.next("x")
			id := p2p.FromWire(p2ptest.Key(0).Peer())
			m.From = []byte(id)
			return m
		},
	} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, victim, honest, a := hostile(t, "")
				a.say(craft(a))
				if victim.count() != 0 || honest.count() != 0 {
					t.Error("delivered or relayed")
				}
				if n := victim.g.Counters().Rejected[reason]; n != 1 {
					t.Errorf("counters: %v", victim.g.Counters().Rejected)
				}
			})
		})
	}
}

// A message is not believed twice: not within gossipsub's memory, not after
// it, and not after a restart. Messages that overtook one another are.
func TestReplay(t *testing.T) {
	state := filepath.Join(t.TempDir(), "seqno")
	synctest.Test(t, func(t *testing.T) {
		net, victim, honest, a := hostile(t, state)
		first, second, third := a.next("first"), a.next("second"), a.next("third")
		a.say(third)
		a.say(first)
		if !victim.got("third") || !victim.got("first") {
			t.Error("a message that was overtaken is lost")
		}
		n := victim.count()
		a.say(first, third)
		time.Sleep(10 * time.Minute) // gossipsub has forgotten
		a.say(first, third)
		if victim.count() != n || honest.count() != n {
			t.Errorf("%d and %d messages heard, want %d", victim.count(), honest.count(), n)
		}
		if r := victim.g.Counters().Rejected["replay"]; r != 2 {
			t.Errorf("%d replays counted, want 2", r)
		}
		a.say(second)
		if !victim.got("second") {
			t.Error("an older message that is new was refused")
		}

		if err := victim.g.Close(); err != nil {
			t.Error(err)
		}
		net.Stop(0)
		time.Sleep(time.Second)
		v := net.Start(0, p2ptest.Addr(1))
		again := join(t, v, Config{StatePath: state}, judgeByText)
		b := newAttacker(t, net.Host(2), p2ptest.Key(2), v)
		time.Sleep(5 * time.Second)
		b.say(first, second, third)
		if again.count() != 0 {
			t.Error("a message is believed again after a restart")
		}
		b.seq = a.seq
		b.say(b.next("fourth"))
		if !again.got("fourth") {
			t.Error("a new message is not heard after a restart")
		}
	})
}

// Peers that subscribe to everything are not followed without bound.
func TestSubscriptionFilter(t *testing.T) {
	f := newFilter()
	sub := func(name string, on bool) *pb.RPC_SubOpts { return &pb.RPC_SubOpts{Topicid: &name, Subscribe: &on} }
	topic := func(i int) string {
		return RunTopic(wire.SumCID(wire.CodecDagCBOR, binary.BigEndian.AppendUint64(nil, uint64(i))))
	}
	kept, err := f.FilterIncomingSubscriptions("p", []*pb.RPC_SubOpts{
		sub(RunsTopic, true), sub(run, true), sub("/shoal/1/run/", true), sub("/shoal/1/run/x", true), sub("/other", true),
		sub(strings.ToUpper(run), true), {},
	})
	if err != nil || len(kept) != 2 {
		t.Errorf("kept %v, %v", kept, err)
	}
	n := 2
	for i := range 10 {
		var subs []*pb.RPC_SubOpts
		for j := range maxSubsPerRPC {
			subs = append(subs, sub(topic(i*maxSubsPerRPC+j), true))
		}
		kept, err := f.FilterIncomingSubscriptions("p", subs)
		if err != nil {
			t.Fatal(err)
		}
		n += len(kept)
	}
	if n != maxSubsPerPeer {
		t.Errorf("%d subscriptions of one peer, limit %d", n, maxSubsPerPeer)
	}
	if _, err := f.FilterIncomingSubscriptions("p", slices.Repeat([]*pb.RPC_SubOpts{sub(run, true)}, maxSubsPerRPC+1)); err == nil {
		t.Error("too many in one message, and no error")
	}
	if kept, _ := f.FilterIncomingSubscriptions("p", []*pb.RPC_SubOpts{sub(run, false), sub(topic(-1), true)}); len(kept) != 2 {
		t.Error("no room after one was given up")
	}
	f.retain(func(peer.ID) bool { return false })
	if len(f.peers) != 0 {
		t.Error("a peer that is gone is remembered")
	}
}

func TestTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.New(t, p2ptest.Options{})
		g, err := New(net.Start(0), Config{Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", "/x", "/shoal/1/run/", "/shoal/1/run/zzz", "/shoal/2/runs"} {
			if _, err := g.Join(name, acceptAll); err == nil {
				t.Errorf("joined %q", name)
			}
		}
		topic, err := g.Join(RunsTopic, acceptAll)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Join(RunsTopic, acceptAll); err == nil {
			t.Error("joined twice")
		}
		if err := topic.Publish(t.Context(), make([]byte, MaxData+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("oversize: %v", err)
		}
		if err := topic.Publish(t.Context(), nil); err == nil {
			t.Error("published nothing")
		}
		if err := topic.Publish(t.Context(), make([]byte, MaxData)); err != nil {
			t.Errorf("at the limit: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := topic.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("next, alone: %v", err) // and not our own message
		}
		ended := make(chan error)
		go func() {
			_, _, err := topic.Next(context.Background())
			ended <- err
		}()
		synctest.Wait()
		if err := topic.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("next of a closed topic: %v", err)
		}
		if topic, err = g.Join(RunsTopic, acceptAll); err != nil {
			t.Fatalf("join again: %v", err)
		}
		go func() {
			_, _, err := topic.Next(context.Background())
			ended <- err
		}()
		synctest.Wait()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("next of a closed gossip: %v", err)
		}
		if err := topic.Publish(t.Context(), []byte("x")); err == nil {
			t.Error("published after Close")
		}
		if _, err := g.Join(run, acceptAll); !errors.Is(err, ErrClosed) {
			t.Errorf("join after Close: %v", err)
		}
	})
}

// The largest message crosses several hops, and a banned peer hears nothing.
func TestLargestAndBan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := p2ptest.Swarm(t, 4, p2ptest.Options{})
		var nodes []*node
		for i := range 4 {
			nodes = append(nodes, join(t, net.Host(i), Config{}, acceptAll))
		}
		time.Sleep(10 * time.Second)
		large := strings.Repeat("x", MaxData)
		publish(t, nodes[1], large)
		time.Sleep(2 * time.Second)
		for i, n := range nodes {
			if i != 1 && !n.got(large) {
				t.Errorf("host %d does not hear the largest message", i)
			}
		}
		for i := range 3 {
			net.Host(i).Ban(net.Host(3).Peer())
		}
		time.Sleep(5 * time.Second)
		publish(t, nodes[0], "after the ban")
		publish(t, nodes[3], "from the banned")
		time.Sleep(2 * time.Second)
		if !nodes[2].got("after the ban") || nodes[3].got("after the ban") || nodes[0].got("from the banned") {
			t.Error("a ban is not observed")
		}
	})
}
