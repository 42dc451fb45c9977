package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// The runs topic and the question that a newcomer asks its neighbours.
const (
	RunsTopic = "/shoal/1/runs"
	RunsProto = "/shoal/1/runs"
	RunsSpace = "runs" // rendezvous of all Shoal peers

	maxListings  = 512              // runs kept; the least recently heard goes first
	maxSpeakers  = 16               // announcements kept for one run
	announceLife = 10 * time.Minute // after which an unrepeated announcement is forgotten
	announceStep = 2 * time.Minute  // between two announcements of one's own
	maxClocks    = 64               // peers whose clocks are compared with ours
	maxName      = 64
	maxRunsReply = 1 << 20
)

// An Announce says that a run exists and that the sender takes part in it. It
// is the body of a wire.KindAnnounce; the envelope's Run is the manifest.
type Announce struct {
	Name  string `cbor:"name"`  // of the manifest
	Round uint64 `cbor:"round"` // of the sender's head; advisory
	Time  uint64 `cbor:"time"`  // Unix seconds by the sender's clock: the later of two replaces the earlier
}

// A Listing is one run that was heard of.
type Listing struct {
	Run   wire.CID      `json:"run"`
	Name  string        `json:"name"`
	Round uint64        `json:"round"` // the highest that was announced
	Peers []wire.PeerID `json:"peers"` // who announced it, the latest first
	Heard time.Time     `json:"heard"`
}

// A Board hears of the runs of the swarm, and tells of one's own.
type Board struct {
	net   Net
	topic Topic
	log   *slog.Logger

	mu   sync.Mutex // guards the following
	runs map[wire.CID]map[wire.PeerID]*notice
	own  map[wire.CID]func() (wire.Signed, error)
	skew map[wire.PeerID]time.Duration // how far the clocks of those who announce something are ahead of ours
}

type notice struct {
	msg   wire.Signed
	body  Announce
	heard time.Time
}

// NewBoard joins the runs topic. Run must be called for it to hear anything.
func NewBoard(net Net, log *slog.Logger) (*Board, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Board{
		net: net, log: log,
		runs: map[wire.CID]map[wire.PeerID]*notice{},
		own:  map[wire.CID]func() (wire.Signed, error){},
		skew: map[wire.PeerID]time.Duration{},
	}
	t, err := net.Join(RunsTopic, b.judge)
	if err != nil {
		return nil, fmt.Errorf("join the runs topic: %w", err)
	}
	b.topic = t
	net.Handle(RunsProto, 16, b.answer)
	net.Rendezvous(RunsSpace)
	return b, nil
}

// Announce tells the swarm of a run from now on, at once and every two
// minutes. round gives the head's round at the time of each announcement.
func (b *Board) Announce(ctx context.Context, key *wire.Key, run wire.CID, name string, round func() uint64) error {
	if err := checkName(name); err != nil {
		return err
	}
	say := func() (wire.Signed, error) {
		body, err := wire.Marshal(&Announce{Name: name, Round: round(), Time: uint64(time.Now().Unix())})
		if err != nil {
			return wire.Signed{}, fmt.Errorf("announcement: %w", err)
		}
		return key.Sign(wire.KindAnnounce, run, body), nil
	}
	b.mu.Lock()
	b.own[run] = say
	b.mu.Unlock()
	return b.say(ctx, say)
}

func (b *Board) say(ctx context.Context, say func() (wire.Signed, error)) error {
	m, err := say()
	if err != nil {
		return err
	}
	b.keep(m, time.Now())
	data, err := m.Encode()
	if err != nil {
		return fmt.Errorf("announcement: %w", err)
	}
	return b.topic.Publish(ctx, data)
}

// Run listens, asks every new neighbour once what it knows and repeats the
// own announcements until ctx ends.
func (b *Board) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for { // the judge keeps what is accepted; the topic only has to be drained
			if _, _, err := b.topic.Next(ctx); err != nil {
				return
			}
		}
	})
	ask := time.NewTicker(2 * time.Second)
	defer ask.Stop()
	tell := time.NewTicker(announceStep)
	defer tell.Stop()
	asked := map[wire.PeerID]bool{}
	for {
		for _, p := range b.net.Peers() {
			if asked[p] || len(asked) > 1024 {
				continue
			}
			asked[p] = true
			if err := b.ask(ctx, p); err != nil {
				b.log.Debug("asked for runs", "peer", p.Short(), "err", err)
			}
		}
		select {
		case <-ctx.Done():
			b.topic.Close()
			return nil
		case <-ask.C:
		case <-tell.C:
			clear(asked)
			b.mu.Lock()
			own := make([]func() (wire.Signed, error), 0, len(b.own))
			for _, f := range b.own {
				own = append(own, f)
			}
			b.mu.Unlock()
			for _, say := range own {
				if err := b.say(ctx, say); err != nil {
					b.log.Debug("announcement", "err", err)
				}
			}
		}
	}
}

// runsReply is the answer to RunsProto: encoded announcements.
type runsReply struct {
	Announcements [][]byte `cbor:"announcements"`
}

func (b *Board) answer(_ context.Context, _ wire.PeerID, _ []byte) ([]byte, error) {
	b.mu.Lock()
	var r runsReply
	size := 0
	for _, run := range b.runs {
		for _, n := range run {
			data, err := n.msg.Encode()
			if err != nil || size+len(data)+16 > maxRunsReply/2 {
				continue
			}
			size += len(data) + 16
			r.Announcements = append(r.Announcements, data)
		}
	}
	b.mu.Unlock()
	return wire.Marshal(&r)
}

func (b *Board) ask(ctx context.Context, p wire.PeerID) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	data, err := b.net.Ask(ctx, p, RunsProto, nil, maxRunsReply)
	if err != nil {
		return err
	}
	var r runsReply
	if err := wire.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	for _, a := range r.Announcements {
		b.judge(ctx, p, a)
	}
	return nil
}

func (b *Board) judge(_ context.Context, from wire.PeerID, data []byte) wire.Judgement {
	if from == b.net.Self() {
		return wire.Accept
	}
	m, err := wire.Decode(data)
	if err != nil || m.Kind != wire.KindAnnounce {
		return wire.Reject
	}
	body, err := decodeAnnounce(m.Body)
	if err != nil {
		return wire.Reject
	}
	now := time.Now()
	t := time.Unix(int64(body.Time), 0)
	if m.From == from { // hardly older than its last repetition
		b.compare(from, t.Sub(now))
	}
	if t.Before(now.Add(-announceLife)) || t.After(now.Add(announceLife)) {
		return wire.Ignore
	}
	if !b.keep(*m, now) {
		return wire.Ignore
	}
	return wire.Accept
}

// compare notes how far a peer's clock is ahead of ours.
func (b *Board) compare(p wire.PeerID, ahead time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.skew[p]; ok || len(b.skew) < maxClocks {
		b.skew[p] = ahead
	}
}

// Skew is how far the clocks of most others that announce runs are ahead of this
// machine's, negative where they are behind; 0 where that is too little to matter.
// Who is off by announceLife hears of no run and is not heard of.
func (b *Board) Skew() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.Sorted(maps.Values(b.skew))
	if len(all) == 0 {
		return 0
	}
	low, high := all[(len(all)-1)/2], all[len(all)/2]
	switch {
	case low >= announceLife/2:
		return low
	case high <= -announceLife/2:
		return high
	}
	return 0
}

func decodeAnnounce(body []byte) (a Announce, err error) {
	if len(body) > 256 {
		return a, errors.New("announcement is over 256 bytes")
	}
	if err := wire.Unmarshal(body, &a); err != nil {
		return a, err
	}
	if a.Time > 1<<40 {
		return a, errors.New("announcement's time is out of bounds")
	}
	return a, checkName(a.Name)
}

// checkName holds a run's name to what a manifest may say.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("announced name has %d bytes, want 1 to %d", len(name), maxName)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("announced name %q holds more than a-z, 0-9 and -", name)
		}
	}
	return nil
}

// keep remembers an announcement and reports whether it was news.
func (b *Board) keep(m wire.Signed, now time.Time) bool {
	body, err := decodeAnnounce(m.Body)
	if err != nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	run := b.runs[m.Run]
	if run == nil {
		if len(b.runs) >= maxListings {
			b.forgetLocked()
		}
		run = map[wire.PeerID]*notice{}
		b.runs[m.Run] = run
	}
	if old := run[m.From]; old != nil && old.body.Time >= body.Time {
		return false
	}
	run[m.From] = &notice{m, body, now}
	for len(run) > maxSpeakers {
		oldest := m.From
		for p, n := range run {
			if n.heard.Before(run[oldest].heard) {
				oldest = p
			}
		}
		delete(run, oldest)
	}
	return true
}

// forgetLocked drops the run that was not heard of for the longest time.
func (b *Board) forgetLocked() {
	var oldest wire.CID
	var when time.Time
	for c, run := range b.runs {
		if t := lastHeard(run); oldest == "" || t.Before(when) {
			oldest, when = c, t
		}
	}
	delete(b.runs, oldest)
}

func lastHeard(run map[wire.PeerID]*notice) (t time.Time) {
	for _, n := range run {
		if n.heard.After(t) {
			t = n.heard
		}
	}
	return t
}

// List returns the runs heard of in the last ten minutes, by name and CID.
func (b *Board) List() []Listing {
	limit := time.Now().Add(-announceLife)
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Listing
	for c, run := range b.runs {
		notices := make([]*notice, 0, len(run))
		for _, n := range run {
			if n.heard.After(limit) {
				notices = append(notices, n)
			}
		}
		if len(notices) == 0 {
			delete(b.runs, c)
			continue
		}
		slices.SortFunc(notices, func(a, b *notice) int {
			return cmp.Or(b.heard.Compare(a.heard), a.msg.From.Compare(b.msg.From))
		})
		l := Listing{Run: c, Name: notices[0].body.Name, Heard: notices[0].heard}
		for _, n := range notices {
			l.Round = max(l.Round, n.body.Round)
			l.Peers = append(l.Peers, n.msg.From)
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Listing) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Run, b.Run))
	})
	return out
}
