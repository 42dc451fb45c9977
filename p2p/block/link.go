package block

import (
	"context"
	"fmt"
	"time"

	bsmsg "github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	bsnetwork "github.com/ipfs/boxo/bitswap/network"
	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/wire"
)

const (
	dialTime   = 15 * time.Second
	sendTime   = 10 * time.Second
	cancelTime = 3 * time.Second

	// linksPerPeer bounds the streams that all fetches together have open to one
	// peer. libp2p lets in 64 of a protocol from a peer, and because streams are
	// opened without waiting for a word, one too many takes its requests with it.
	linksPerPeer = 48
)

// conn is the way to one provider: its goroutine connects, then sends what is
// in mail.
type conn struct {
	stop context.CancelFunc
	mail chan bsmsg.BitSwapMessage
}

// link starts a conn to p, which reports with evReady or evFailed.
func (f *fetch) link(p wire.PeerID) {
	ctx, stop := context.WithCancel(f.ctx)
	l := &conn{stop, make(chan bsmsg.BitSwapMessage, 256)}
	f.links[p] = l
	id := p2p.FromWire(p)
	f.x.net.Protect(id, f.tag())
	f.wg.Go(func() {
		defer stop()
		slot := f.x.slots(id)
		select {
		case slot <- struct{}{}:
			defer func() { <-slot }()
		case <-ctx.Done():
			return
		}
		dial, cancel := context.WithTimeout(ctx, dialTime)
		snd, err := f.x.net.NewMessageSender(dial, id, &bsnetwork.MessageSenderOpts{
			MaxRetries: 1, SendTimeout: sendTime, SendErrorBackoff: tick,
		})
		cancel()
		if err != nil {
			f.post(event{kind: evFailed, peer: p, link: l, err: err})
			return
		}
		context.AfterFunc(ctx, func() { _ = snd.Reset() }) // ends a SendMsg that hangs, too
		f.post(event{kind: evReady, peer: p, link: l})
		f.measure(ctx, p)
		for {
			select {
			case m := <-l.mail:
				if err := snd.SendMsg(ctx, m); err != nil {
					f.post(event{kind: evFailed, peer: p, link: l, err: err})
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
}

// measure finds the round-trip time to p if it is not known yet.
func (f *fetch) measure(ctx context.Context, p wire.PeerID) {
	id := p2p.FromWire(p)
	if rtt := f.x.net.Latency(id); rtt > 0 {
		f.post(event{kind: evRTT, peer: p, rtt: rtt})
		return
	}
	f.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, sendTime)
		defer cancel()
		if r := f.x.net.Ping(ctx, id); r.Error == nil && r.RTT > 0 {
			f.post(event{kind: evRTT, peer: p, rtt: r.RTT})
		}
	})
}

func (f *fetch) unlink(p wire.PeerID) {
	if l := f.links[p]; l != nil {
		l.stop()
		delete(f.links, p)
		f.x.net.Unprotect(p2p.FromWire(p), f.tag())
	}
}

// tag names the fetch to the connection manager.
func (f *fetch) tag() string { return fmt.Sprintf("fetch-%p", f) }

// send puts requests into the mail. Cancels go by a stream of their own, which
// outlives the fetch.
func (f *fetch) send(orders []order) {
	for _, o := range orders {
		if len(o.cancel) > 0 {
			for _, c := range o.cancel {
				delete(f.owed[o.to], c)
			}
			f.x.cancel(f, o.to, o.cancel)
		}
		l := f.links[o.to]
		if l == nil || len(o.ask) == 0 {
			continue
		}
		if f.owed[o.to] == nil {
			f.owed[o.to] = map[wire.CID]bool{}
		}
		m := bsmsg.New(false)
		asked := make([]cid.Cid, len(o.ask))
		for i, c := range o.ask {
			f.owed[o.to][c] = true
			asked[i] = toCid(c)
			m.AddEntry(asked[i], o.prio[i], pb.Message_Wantlist_Block, true)
		}
		f.x.noteAsked(p2p.FromWire(o.to), f, asked)
		select {
		case l.mail <- m:
		default: // it does not read: as good as lost
			f.sched.drop(o.to, gone)
			f.unlink(o.to)
		}
	}
}

// owing returns cancels for all who were asked for c and have not sent it:
// those who said that they lack it would send it when it reaches them.
func (f *fetch) owing(c wire.CID) []order {
	var out []order
	for p, cs := range f.owed {
		if cs[c] {
			out = append(out, order{to: p, cancel: []wire.CID{c}})
		}
	}
	return out
}

// cancel tells p to forget cs. It does not wait.
func (x *Exchange) cancel(f *fetch, p wire.PeerID, cs []wire.CID) {
	id := p2p.FromWire(p)
	m := bsmsg.New(false)
	for _, c := range cs {
		if k := toCid(c); x.noteCancel(id, f, k) {
			m.Cancel(k)
		}
	}
	if m.Empty() {
		return
	}
	x.wg.Go(func() { // Run waits for it
		ctx, stop := context.WithTimeout(context.Background(), cancelTime)
		defer stop()
		if x.net.IsConnectedToPeer(ctx, id) {
			_ = x.net.SendMessage(ctx, id, m) // if it is lost, so is the connection
		}
	})
}
