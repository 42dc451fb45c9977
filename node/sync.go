package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// SyncProto is the question of a newcomer, or of a peer that may have missed
// something: what do you know that I need to hear? The answer holds the
// messages that make the asker's machine agree about the head.
const SyncProto = "/shoal/1/sync"

// RunTopic returns the topic of a run's messages.
func RunTopic(run wire.CID) string { return "/shoal/1/run/" + run.String() }

// RunSpace returns the rendezvous of a run's peers.
func RunSpace(run wire.CID) string { return "run/" + run.String() }

// Bounds of the sync protocol.
const (
	maxSyncAsk   = 128
	maxSyncReply = 8 << 20
	maxSyncItems = 16384
	syncFresh    = 500 * time.Millisecond // for which an answer is used again
	syncTimeout  = 20 * time.Second
	syncLook     = time.Second      // between two looks for new peers
	syncAgain    = 5 * time.Second  // without a new head, until others are asked again
	syncRest     = 30 * time.Second // until a peer that left may count as new
)

// syncAsk is the question.
type syncAsk struct {
	Run wire.CID `cbor:"run"`
}

// syncReply is the answer: encoded envelopes.
type syncReply struct {
	Messages [][]byte `cbor:"messages"`
}

// listener is the run's ear: it judges what the topic brings, asks others for
// what it missed and answers them.
type listener struct {
	run   wire.CID
	self  wire.PeerID
	net   Net
	topic Topic
	owner *owner
	meter *meter
	log   *slog.Logger

	mu      sync.Mutex // guards the following
	seen    [2]map[[32]byte]bool
	answer  []byte // the last answer given
	made    time.Time
	newHead time.Time // when the head last changed
}

// seenLimit bounds each of the two generations of message digests remembered.
const seenLimit = 1 << 14

// known reports whether the machine has had these bytes lately.
func (l *listener) known(h [32]byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[0][h] || l.seen[1][h]
}

func (l *listener) remember(h [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[0] == nil || len(l.seen[0]) >= seenLimit {
		l.seen[0], l.seen[1] = map[[32]byte]bool{}, l.seen[0]
	}
	l.seen[0][h] = true
}

// headChanged forgets what was heard: the machine may have thrown it away.
func (l *listener) headChanged() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newHead = time.Now()
	l.seen = [2]map[[32]byte]bool{}
}

// judge is the topic's judge.
func (l *listener) judge(ctx context.Context, from wire.PeerID, data []byte) wire.Judgement {
	if from == l.self {
		return wire.Accept // said by this node, through the journal
	}
	return l.take(ctx, data)
}

// take decodes, checks and hears one encoded envelope.
func (l *listener) take(ctx context.Context, data []byte) wire.Judgement {
	if len(data) > wire.MaxMessage {
		l.meter.reject("oversized")
		return wire.Reject
	}
	h := sha256.Sum256(data)
	if l.known(h) {
		return wire.Ignore
	}
	var m wire.Signed
	if err := wire.Unmarshal(data, &m); err != nil {
		l.meter.reject("malformed")
		return wire.Reject
	}
	switch m.Kind {
	case wire.KindJoin, wire.KindDelta, wire.KindVote, wire.KindAttest, wire.KindEvidence, wire.KindVerdict:
	default:
		l.meter.reject("kind")
		return wire.Reject
	}
	if m.Run != l.run {
		l.meter.reject("wrong run")
		return wire.Reject
	}
	if err := m.Verify(); err != nil {
		l.meter.reject("signature")
		return wire.Reject
	}
	j := l.owner.hear(ctx, &m)
	if j == wire.Accept {
		l.remember(h)
	}
	return j
}

// respond answers a sync question.
func (l *listener) respond(ctx context.Context, _ wire.PeerID, req []byte) ([]byte, error) {
	var q syncAsk
	if err := wire.Unmarshal(req, &q); err != nil {
		return nil, err
	}
	if q.Run != l.run {
		return nil, fmt.Errorf("this peer is in the run %s", l.run)
	}
	l.mu.Lock()
	fresh := l.answer != nil && time.Since(l.made) < syncFresh
	answer := l.answer
	l.mu.Unlock()
	if fresh {
		return answer, nil
	}
	messages, ok := ask(ctx, l.owner, l.owner.machine.Messages)
	if !ok {
		return nil, errors.New("this peer has no time to answer")
	}
	var r syncReply
	size := 16
	for i := range messages {
		data, err := messages[i].Encode()
		if err != nil || size+len(data)+8 > maxSyncReply || len(r.Messages) == maxSyncItems {
			continue
		}
		size += len(data) + 8
		r.Messages = append(r.Messages, data)
	}
	answer, err := wire.Marshal(&r)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.answer, l.made = answer, time.Now()
	l.mu.Unlock()
	return answer, nil
}

// query asks one peer and hears what it says.
func (l *listener) query(ctx context.Context, p wire.PeerID) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	req, err := wire.Marshal(&syncAsk{l.run})
	if err != nil {
		return err
	}
	data, err := l.net.Ask(ctx, p, SyncProto, req, maxSyncReply)
	if err != nil {
		return err
	}
	if len(data) > maxSyncReply {
		return fmt.Errorf("answer of %d bytes is over the limit of %d", len(data), maxSyncReply)
	}
	var r syncReply
	if err := wire.Unmarshal(data, &r); err != nil {
		l.meter.reject("malformed sync answer")
		return fmt.Errorf("answer: %w", err)
	}
	if len(r.Messages) > maxSyncItems {
		l.meter.reject("malformed sync answer")
		return fmt.Errorf("answer of %d messages is over the limit of %d", len(r.Messages), maxSyncItems)
	}
	bad := 0
	for _, m := range r.Messages {
		if l.take(ctx, m) == wire.Reject {
			if bad++; bad > 16 {
				return fmt.Errorf("answer holds more than %d bad messages", bad-1)
			}
		}
	}
	l.log.Debug("synced", "peer", p.Short(), "messages", len(r.Messages))
	return nil
}

// loop asks every peer of the run that turns up, and some of them again when
// the head does not change.
func (l *listener) loop(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	slots := make(chan struct{}, 4) // questions at a time
	asked := map[wire.PeerID]time.Time{}
	ask := func(p wire.PeerID) {
		select {
		case slots <- struct{}{}:
		default:
			return // later
		}
		asked[p] = time.Now()
		work.Go(func() {
			defer func() { <-slots }()
			if err := l.query(ctx, p); err != nil && ctx.Err() == nil {
				l.log.Debug("sync", "peer", p.Short(), "err", err)
			}
		})
	}
	look := time.NewTicker(syncLook)
	defer look.Stop()
	var again time.Time
	for {
		now := time.Now()
		peers := l.topic.Peers()
		here := map[wire.PeerID]bool{}
		for _, p := range peers {
			here[p] = true
			if _, ok := asked[p]; !ok && p != l.self {
				ask(p)
			}
		}
		for p, t := range asked {
			if !here[p] && now.Sub(t) > syncRest {
				delete(asked, p)
			}
		}
		l.mu.Lock()
		quiet := now.Sub(l.newHead)
		l.mu.Unlock()
		if len(peers) > 0 && quiet > syncAgain && now.Sub(again) > syncAgain {
			again = now
			for range 2 {
				if p := peers[rand.IntN(len(peers))]; p != l.self {
					ask(p)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// drain reads the topic, whose judge has heard everything already.
func (l *listener) drain(ctx context.Context) {
	for {
		if _, _, err := l.topic.Next(ctx); err != nil {
			if ctx.Err() == nil {
				l.log.Warn("the run's topic ended", "err", err)
			}
			return
		}
	}
}
