package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/p2p/block"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A quietNet is a swarm in which nobody else speaks.
type quietNet struct {
	node.Net // what is not used
	self     wire.PeerID
	peers    []wire.PeerID
}

func (n quietNet) Self() wire.PeerID                         { return n.self }
func (n quietNet) Peers() []wire.PeerID                      { return n.peers }
func (quietNet) Rendezvous(string)                           {}
func (quietNet) Handle(string, int, node.Handler)            {}
func (quietNet) Join(string, node.Judge) (node.Topic, error) { return quietTopic{}, nil }

type quietTopic struct{}

func (quietTopic) Publish(context.Context, []byte) error { return nil }
func (quietTopic) Next(ctx context.Context) ([]byte, wire.PeerID, error) {
	<-ctx.Done()
	return nil, wire.PeerID{}, ctx.Err()
}
func (quietTopic) Peers() []wire.PeerID { return nil }
func (quietTopic) Close() error         { return nil }

func testKey(t *testing.T, b byte) *wire.Key {
	t.Helper()
	k, err := wire.NewKey(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A name is a run if exactly one run of that name is announced; every other
// case says what to do next.
func TestFind(t *testing.T) {
	run := func(i int) wire.CID { return wire.SumCID(wire.CodecDagCBOR, []byte{byte(i)}) }
	for _, c := range []struct {
		name      string
		announced []string // run i has the i-th name
		peers     int
		ask       string
		want      wire.CID
		err, next string
	}{
		{"a CID", nil, 0, run(3).String(), run(3), "", ""},
		{"a CID of something else", nil, 0, wire.SumCID(wire.CodecRaw, nil).String(), "", "not of a run", "shoal runs"},
		{"one of that name", []string{"moby", "other"}, 1, "moby", run(0), "", ""},
		{"two of that name", []string{"moby", "other", "moby"}, 1, "moby", "", "2 runs are called", "CID"},
		{"none of that name", []string{"moby"}, 1, "mobby", "", "heard of:\n    moby  " + run(0).String(), "check the spelling"},
		{"no run", nil, 1, "moby", "", "no run at all", "--bootstrap"},
		{"no peer", nil, 0, "moby", "", "no peer was found", "--bootstrap"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			store, err := block.Open(dir, block.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			synctest.Test(t, func(t *testing.T) {
				net := quietNet{self: testKey(t, 1).Peer()}
				for i := range c.peers {
					net.peers = append(net.peers, testKey(t, byte(i+2)).Peer())
				}
				board, err := node.NewBoard(net, nil)
				if err != nil {
					t.Fatal(err)
				}
				for i, name := range c.announced {
					if err := board.Announce(t.Context(), testKey(t, byte(10+i)), run(i), name, func() uint64 { return 0 }); err != nil {
						t.Fatal(err)
					}
				}
				s := &session{app: &app{dir: dir, err: new(bytes.Buffer)}, store: store, blocks: blocks{store: store}, net: net, board: board}
				got, err := s.find(t.Context(), c.ask, 30*time.Second)
				if got != c.want || (err == nil) != (c.err == "") {
					t.Fatalf("got %q, %v", got, err)
				}
				if err == nil {
					return
				}
				var adv advice
				if !strings.Contains(err.Error(), c.err) || !errors.As(err, &adv) || !strings.Contains(adv.next, c.next) {
					t.Errorf("%v (next: %s), want %q and %q", err, adv.next, c.err, c.next)
				}
			})
		})
	}
}

// Errors are printed with the next step, in words or as JSON.
func TestReportErrors(t *testing.T) {
	var b bytes.Buffer
	a := &app{err: &b}
	err := fmt.Errorf("join: %w", advise(errors.New("the sea is dry"), "wait for %s", "rain"))
	a.report(err)
	if b.String() != "shoal: join: the sea is dry\n  next: wait for rain\n" {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	a.json = true
	a.report(err)
	if b.String() != `{"error":"join: the sea is dry","next":"wait for rain"}`+"\n" {
		t.Errorf("%q", b.String())
	}
}
