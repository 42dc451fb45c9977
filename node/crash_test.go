package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/diloco"
	"github.com/shoalnet/shoal/diloco/codec"
	"github.com/shoalnet/shoal/node/journal"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// An instant is a point within a node's work at which the machine loses power:
// what is on disk then is copied, and nothing goes on.
type instant struct {
	name  string
	say   wire.Kind // at the journaling of such a message, or
	adopt bool      // of a new head, or
	put   bool      // at the storing of a payload
	after bool      // it is on disk
}

// cut is power lost at an instant.
type cut struct {
	instant
	m     *member
	from  time.Time // not before
	dir   string
	shelf *shelf
	dark  chan struct{} // closed when the power is gone
	last  wire.CID      // the message at whose journaling it went
}

// armed makes a member lose power at an instant of its round r or later.
func (m *member) armed(i instant, after time.Duration) *cut {
	c := &cut{instant: i, m: m, from: time.Now().Add(after), dark: make(chan struct{})}
	m.opt = func(o *Options) {
		o.openJournal = func() (journalFile, []journal.Record, error) {
			j, recs, err := journal.Open(m.dir + "/" + journalDir)
			return cutJournal{j, c}, recs, err
		}
		o.Blocks = cutBlocks{o.Blocks.(*crate), c}
	}
	return c
}

// strike copies the disk and lets nothing go on.
func (c *cut) strike(ctx context.Context) error {
	c.dir, c.shelf = c.m.s.t.TempDir(), c.m.shelf.copy()
	if err := os.CopyFS(c.dir, os.DirFS(c.m.dir)); err != nil {
		c.m.s.t.Error(err)
	}
	close(c.dark)
	<-ctx.Done()
	return ctx.Err()
}

func (c *cut) due() bool {
	select {
	case <-c.dark:
		return false
	default:
		return time.Now().After(c.from)
	}
}

type cutJournal struct {
	journalFile
	c *cut
}

func (j cutJournal) Append(recs ...journal.Record) error {
	hit := false
	for _, r := range recs {
		switch r.Type {
		case recSaid:
			if m, err := wire.Decode(r.Data); err == nil && j.c.say != 0 {
				if m.Kind == j.c.say {
					hit, j.c.last = true, m.ID()
				}
			}
		case recAdopted:
			hit = hit || j.c.adopt
		}
	}
	if !hit || !j.c.due() {
		return j.journalFile.Append(recs...)
	}
	if j.c.after {
		if err := j.journalFile.Append(recs...); err != nil {
			return err
		}
	}
	return j.c.strike(j.c.m.host.ctx)
}

type cutBlocks struct {
	*crate
	c *cut
}

func (b cutBlocks) PutFile(ctx context.Context, data []byte) (wire.CID, error) {
	if !b.c.put || !b.c.due() {
		return b.crate.PutFile(ctx, data)
	}
	if b.c.after {
		if _, err := b.crate.PutFile(ctx, data); err != nil {
			return "", err
		}
	}
	return "", b.c.strike(b.c.m.host.ctx)
}

func TestPowerLostWithin(t *testing.T) {
	for _, i := range []instant{
		{name: "payload not stored", put: true},
		{name: "payload stored, not saved as pending", put: true, after: true},
		{name: "delta not journaled", say: wire.KindDelta},
		{name: "delta journaled, not published", say: wire.KindDelta, after: true},
		{name: "vote not journaled", say: wire.KindVote},
		{name: "vote journaled, not published", say: wire.KindVote, after: true},
		{name: "attestation journaled, not published", say: wire.KindAttest, after: true},
		{name: "head not journaled", adopt: true},
		{name: "head journaled, not acted upon", adopt: true, after: true},
	} {
		for _, fast := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, back fast %v", i.name, fast), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSwarm(t, func(m *manifest.Manifest) {
						m.Stop.Rounds, m.Codec.Kind, m.Round.InnerSteps = 6, "int4", 6
					})
					for n := range 4 {
						s.member(n)
					}
					s.members[0].seed()
					m := s.members[1]
					c := m.armed(i, 9*time.Second)
					for n := range 4 {
						s.members[n].start()
					}
					<-c.dark
					time.Sleep(time.Second)
					if i.say != 0 && s.sea.published(c.last) {
						t.Error("the message is public and not acknowledged by the disk")
					}
					m.stop()
					m.dir, m.shelf, m.opt = c.dir, c.shelf, nil
					if !fast {
						time.Sleep(12 * time.Second)
					}
					m.start()
					s.until("done", 10*time.Minute, done)
					st := s.agree()
					contributed := m.node.Status().RoundsContributed
					if fast && contributed != s.manifest.Stop.Rounds-1 || contributed < 2 {
						t.Errorf("contributed to %d rounds", contributed)
					}
					if r := m.verify(st.Result); !r.Verified {
						t.Error(r.Mismatch)
					}
					s.stopAll()
					m.said()
				})
			})
		}
	}
}

// Whatever happens to payloads, work is neither lost nor counted twice: what is
// owed, what is on its way and what was merged add up to what was trained.
func TestDebtsConserveWork(t *testing.T) {
	s := newSwarm(t, func(m *manifest.Manifest) { m.Codec.Kind = "int4" })
	ctx := context.Background()
	shelf, dir, key := newShelf(), t.TempDir(), testKey(t, 1)
	blocks := &crate{shelf, nil}
	open := func() *debts {
		d, err := openDebts(dir, s.run, key.Peer(), s.model.Codec, blocks, testLogger())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	n := s.model.Params()
	trained, merged := make([]float64, n), make([]float64, n)
	payload := func(p pending) []float32 {
		t.Helper()
		out, err := localPayload(ctx, blocks, s.model.Codec, p.Delta.Block, codec.Header{Run: s.run, Parent: p.Delta.Parent, Peer: key.Peer()})
		if err != nil {
			t.Fatal(err)
		}
		v := make([]float32, n)
		if err := out.AddTo(v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	id := func(x string, r int) wire.CID { return wire.SumCID(wire.CodecDagCBOR, fmt.Append(nil, x, r)) }
	train := func(r int) {
		t.Helper()
		delta := make([]float32, n)
		for i := range delta {
			delta[i] = float32(math.Sin(float64(i*r+i))) * 0.01
			trained[i] += float64(delta[i])
		}
		msg := diloco.Delta{Parent: id("head", r), Round: uint64(r), State: id("state", r), Steps: 1, Tokens: 1}
		if _, err := d.encode(ctx, msg, delta); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string) {
		t.Helper()
		// What the next payload would carry, were it exact: made visible by a
		// copy that folds everything and encodes nothing new.
		if err := d.save(); err != nil {
			t.Fatal(err)
		}
		x := open()
		sum := make([]float64, n)
		for _, p := range x.pending {
			for i, v := range payload(p) {
				sum[i] += float64(v)
			}
		}
		owed := make([]float32, n)
		out, err := x.feedback.Encode(codec.Header{Run: s.run, Parent: id("probe", 0), Peer: key.Peer()}, owed)
		if err != nil {
			t.Fatal(err)
		}
		_ = out // owed now holds u = 0 + e
		for i := range sum {
			if got := sum[i] + float64(owed[i]) + merged[i]; math.Abs(got-trained[i]) > 1e-6 {
				t.Fatalf("%s: weight %d: owed, pending and merged make %g, trained was %g", what, i, got, trained[i])
			}
		}
	}
	settle := func(i int) {
		p := d.pending[i]
		for k, v := range payload(p) {
			merged[k] += float64(v)
		}
		d.included(p.Delta.Block)
	}
	train(1)
	check("encoded")
	d.signed(d.pending[0].Delta.Block, id("env", 1))
	train(2)
	check("two pending")
	settle(0)
	check("one included")
	d.signed(d.pending[0].Delta.Block, id("env", 2))
	train(3)
	if err := d.expired(ctx, d.pending[0].Delta.Block); err != nil {
		t.Fatal(err)
	}
	check("one expired")
	if err := d.expired(ctx, id("unknown", 0)); err != nil {
		t.Fatal(err)
	}
	d.included(id("unknown", 0))
	check("unknown fates")
	if _, err := d.resend(ctx, d.pending[0], id("sibling", 3)); err != nil {
		t.Fatal(err)
	}
	check("sent again under a sibling")
	if got := d.pending[0].Delta.Parent; got != id("sibling", 3) || len(d.pending) != 1 {
		t.Errorf("pending %+v", d.pending)
	}
	if err := d.unsent(ctx, 3, id("state", 3)); err != nil || len(d.pending) != 1 {
		t.Errorf("the present round's payload was taken back: %v", err)
	}
	if err := d.unsent(ctx, 4, id("state", 4)); err != nil || len(d.pending) != 0 {
		t.Errorf("an unsigned payload was not taken back: %v", err)
	}
	check("unsigned taken back")
	for r := 10; r < 10+2*codec.MaxOutstanding; r++ {
		train(r)
	}
	check("more than may be pending")
	if len(d.pending) >= codec.MaxOutstanding {
		t.Errorf("%d are pending", len(d.pending))
	}
	shelf.setFull(true)
	if _, err := d.encode(ctx, diloco.Delta{Parent: id("head", 999), Round: 999}, make([]float32, n)); !errors.Is(err, errFull) {
		t.Errorf("full store: %v", err)
	}
	shelf.setFull(false)
	check("full store")
	if d.counted != 1 {
		t.Errorf("%d counted, one was included", d.counted)
	}
}
