package block

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/p2p"
	"github.com/shoalnet/shoal/p2p/p2ptest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Real sockets, real files: two sources, over QUIC and over TCP.
func TestLoopback(t *testing.T) {
	if testing.Short() {
		t.Skip("opens sockets and writes 48 MiB")
	}
	for name, listen := range map[string]string{"quic": "/ip4/127.0.0.1/udp/0/quic-v1", "tcp": "/ip4/127.0.0.1/tcp/0"} {
		t.Run(name, func(t *testing.T) {
			var ps []*simPeer
			for i := range 3 {
				h, err := p2p.New(p2p.Config{
					Key: p2ptest.Key(i), Listen: []string{listen},
					NoMDNS: true, NoPortMap: true, NoAutoNAT: true, Log: quiet,
				})
				if err != nil {
					t.Fatal(err)
				}
				s, err := Open(t.TempDir(), Options{Log: quiet, NoSync: true})
				if err != nil {
					t.Fatal(err)
				}
				x, err := NewExchange(h, s, nil)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := x.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				t.Cleanup(func() {
					cancel()
					wg.Wait()
					if err := h.Close(); err != nil {
						t.Error(err)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				ps = append(ps, &simPeer{h: h, s: s, x: x})
			}
			data := map[string][]byte{"model.safetensors": bytesOf(1, 8<<20), "config.json": []byte("{}")}
			var dir wire.CID
			for _, p := range ps[1:] {
				c, err := p.s.PutDir(t.Context(), readers(data))
				if err != nil {
					t.Fatal(err)
				}
				dir = c
			}
			ps[0].connect(t, ps[1:]...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			t0 := time.Now()
			if err := ps[0].x.FetchDir(ctx, dir, peers(ps[1:]...), 9<<20, nil); err != nil {
				t.Fatal(err)
			}
			t.Logf("8 MiB in %v, %+v", time.Since(t0), ps[0].x.Stats())
			got, err := ps[0].s.GetDir(ctx, dir, 9<<20)
			if err != nil || !bytes.Equal(got["model.safetensors"], data["model.safetensors"]) {
				t.Errorf("the directory that came differs: %v", err)
			}
			// A block that goes bad on disk is fetched anew.
			entries, _ := ps[0].s.List(ctx, dir)
			file, _ := ps[0].s.Get(ctx, entries[1].CID)
			n, err := decodeNode(file)
			if err != nil {
				t.Fatal(err)
			}
			ruin(t, ps[0].s, n.links[3].cid)
			if b, err := ps[0].x.FetchFile(ctx, entries[1].CID, peers(ps[1:]...), 9<<20); err != nil || !bytes.Equal(b, data["model.safetensors"]) {
				t.Errorf("after damage: %v", err)
			}
		})
	}
}
