package block

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// gate is a backend that writes no leaf before as many are under way as there are
// writers.
type gate struct {
	backend
	mu     sync.Mutex // guards the following
	cond   *sync.Cond
	under  int // leaves being written
	most   int // of them at a time
	left   int // leaves to come
	failAt int // how many leaves before the disk fails; 0: it does not
	nodes  []int
}

func (g *gate) put(h hash, data []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(data) != 1 { // a node: how many leaves are not there yet
		g.nodes = append(g.nodes, g.under)
		return g.backend.put(h, data)
	}
	g.under++
	g.left--
	g.most = max(g.most, g.under)
	g.cond.Broadcast()
	for g.most < writers {
		g.cond.Wait()
	}
	if g.failAt > 0 && g.left < g.failAt {
		g.under--
		return syscall.EIO
	}
	err := g.backend.put(h, data)
	g.under--
	return err
}

// Leaves are written together, and a node when all below it is there: what has a root
// on the disk is whole, whenever the process was killed.
func TestLeavesAreWrittenTogether(t *testing.T) {
	for name, fails := range map[string]bool{"well": false, "failing": true} {
		t.Run(name, func(t *testing.T) {
			const n = 200
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(i)
			}
			var g *gate
			s := open(t, t.TempDir(), Options{wrap: func(b backend) backend {
				g = &gate{backend: b, left: n}
				g.cond = sync.NewCond(&g.mu)
				return g
			}})
			if fails {
				g.failAt = n / 2
			}
			b := newBuilder(s, 1, 16)
			p, err := b.file(t.Context(), readChunks(bytes.NewReader(data)))
			b.work.Wait()
			s.release(b.held...)
			if slices.ContainsFunc(g.nodes, func(under int) bool { return under > 0 }) {
				t.Errorf("nodes were written while so many leaves were not: %v", g.nodes)
			}
			if len(s.holds) != 0 || s.reserved != 0 {
				t.Errorf("%d held, %d reserved", len(s.holds), s.reserved)
			}
			if fails {
				if !errors.Is(err, syscall.EIO) || len(g.nodes) > n/16/2 {
					t.Errorf("%v, %d nodes", err, len(g.nodes))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.GetFile(t.Context(), p.cid, n); err != nil || !bytes.Equal(got, data) {
				t.Errorf("it comes back as %d bytes: %v", len(got), err)
			}
		})
	}
}
