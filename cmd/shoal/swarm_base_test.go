package main

import (
	"bytes"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/p2ptest"
)

// A joiner fetches a large base, says how far it is, and loses its process half-way: what
// lay on its disk at that moment is not fetched again, and the run begins.
func TestSimSwarmFetchesBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const much = 24 << 20
		s := newSimSwarm(t, simOptions{
			net:    p2ptest.Options{Mbps: 20},
			change: func(m *manifest.Manifest) { m.Admission.MinPeers, m.Stop.Rounds = 2, 3 },
			base: func(cfg hf.Config) map[string][]byte {
				files, _ := shardedBF16(t, cfg, 2)
				noise := make([]byte, much)
				for i, x := 0, uint32(1); i < much; i++ {
					x = x*1664525 + 1013904223
					noise[i] = byte(x >> 24)
				}
				files["momentum"] = noise
				return files
			},
		})
		s.start(2)
		p := s.peers[1]
		half := func(st node.Status) bool { return st.Checkpoint.Base && st.Checkpoint.Done > much/2 }
		s.until("half of the base", time.Minute, half, 1)
		st := p.node.Status()
		if c := st.Checkpoint; c.Done >= c.Total || c.Total < much*99/100 || c.Rate < 1e6 || c.Rate > 2.6e6 || st.Phase != node.Syncing {
			t.Errorf("half-way, in phase %s: %+v", st.Phase, c)
		}
		left := t.TempDir() // what kill -9 leaves
		if err := os.CopyFS(left, os.DirFS(p.dir)); err != nil {
			t.Fatal(err)
		}
		s.die(1)
		p.dir = left
		s.part(0, 1)
		p.start(p2ptest.Addr(0))
		s.until("done", 5*time.Minute, isDone)
		s.agree()
		if again := p.ex.Stats().Bytes; again > much*6/10 {
			t.Errorf("%d bytes of %d were fetched after half was there", again, much)
		}
		if c := p.node.Status().Checkpoint; c.Base && c.Done != c.Total {
			t.Errorf("at the end: %+v", c)
		}
		pins, err := blocks{p.store, p.ex}.Pins()
		if err != nil || pins["run/base"] != s.manifest.Model.Base {
			t.Errorf("the base is not pinned: %v, %v", pins, err)
		}
		got, err := p.store.GetDir(t.Context(), s.manifest.Model.Base, 1<<30)
		if err != nil || !bytes.Equal(got["momentum"], s.base["momentum"]) {
			t.Errorf("another base: %v", err)
		}
	})
}
