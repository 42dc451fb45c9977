package block

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/boxo/bitswap/client"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/p2p/wire"
)

// rateOfOurs is the time to fetch a file of the given size from n sources, and
// the blocks that came twice.
func rateOfOurs(t *testing.T, n, size int) (took time.Duration, dups uint64) {
	synctest.Test(t, func(t *testing.T) {
		me, sources, dir := star(t, n, map[string][]byte{"f": bytesOf(3, size)})
		t0 := time.Now()
		if err := me.x.FetchDir(t.Context(), dir, peers(sources...), 1<<40, nil); err != nil {
			t.Fatal(err)
		}
		took = time.Since(t0)
		time.Sleep(3 * time.Second) // duplicates under way
		dups = me.x.Stats().Duplicates + me.x.Stats().Unasked
	})
	return took, dups
}

// rateOfBoxo is the same with a session of boxo's client, which is given all
// leaves at once.
func rateOfBoxo(t *testing.T, n, size int) (took time.Duration, dups uint64) {
	synctest.Test(t, func(t *testing.T) {
		data := bytesOf(3, size)
		me, _, _ := star(t, n, map[string][]byte{"f": data})
		me.stop() // its host stays
		var leaves []cid.Cid
		for len(data) > 0 {
			k := min(chunkSize, len(data))
			leaves = append(leaves, toCid(wire.SumCID(wire.CodecRaw, data[:k])))
			data = data[k:]
		}
		s, err := Open(t.TempDir(), Options{NoSync: true, wrap: inMemory})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := me.h.Libp2p()
		nw := bsnet.NewFromIpfsHost(h)
		c := client.New(ctx, nw, nil, served{s})
		nw.Start(c)
		defer nw.Stop()
		defer c.Close()
		time.Sleep(time.Second)
		t0 := time.Now()
		ch, err := c.NewSession(ctx).GetBlocks(ctx, leaves)
		if err != nil {
			t.Fatal(err)
		}
		for b := range ch {
			w, _ := wire.CIDFromBytes(b.Cid().Bytes())
			if err := s.PutCID(ctx, w, b.RawData()); err != nil {
				t.Fatal(err)
			}
		}
		took = time.Since(t0)
		if u := s.Usage(); u.Bytes != int64(size) {
			t.Fatalf("%d bytes came", u.Bytes)
		}
		time.Sleep(3 * time.Second)
		st, err := c.Stat()
		if err != nil {
			t.Fatal(err)
		}
		dups = st.DupBlksReceived
	})
	return took, dups
}

// TestFetchRate measures, in virtual time, how fast a fetch from one and from
// five sources is (20 Mbit/s up each, 100 ms round trip) against a session of
// boxo's own client. It is a benchmark, but bubbles need a *testing.T.
// SHOAL_BENCH=1 runs the large sizes.
func TestFetchRate(t *testing.T) {
	sizes := []int{16}
	if os.Getenv("SHOAL_BENCH") != "" {
		sizes = []int{8, 32, 128}
	} else if testing.Short() {
		t.Skip("takes some seconds of CPU")
	}
	if v, err := strconv.Atoi(os.Getenv("SHOAL_BENCH_MIB")); err == nil {
		sizes = []int{v}
	}
	for _, mib := range sizes {
		for _, n := range []int{1, 5} {
			line := min(float64(n)*20e6, 100e6) / 8
			ideal := float64(mib<<20) / line
			ours, dups := rateOfOurs(t, n, mib<<20)
			boxo, boxoDups := rateOfBoxo(t, n, mib<<20)
			t.Logf("%3d MiB from %d: ours %6.2f s (%2.0f %% of the line, %d duplicates), boxo's session %6.2f s (%2.0f %%, %d), ratio %.2f",
				mib, n, ours.Seconds(), 100*ideal/ours.Seconds(), dups, boxo.Seconds(), 100*ideal/boxo.Seconds(), boxoDups, boxo.Seconds()/ours.Seconds())
			if n > 1 && boxo < ours*11/10 {
				t.Errorf("from %d sources the fetch takes %v, boxo's session %v: striping does not work", n, ours, boxo)
			}
		}
	}
}

// BenchmarkFetchRate is TestFetchRate with its large sizes, for go test -bench:
// bubbles need a *testing.T, so it runs this program again. The times that it
// prints are virtual; its own time per operation means nothing.
func BenchmarkFetchRate(b *testing.B) {
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestFetchRate$", "-test.v")
	cmd.Env = append(os.Environ(), "SHOAL_BENCH=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if _, text, ok := strings.Cut(line, "rate_test.go:"); ok {
			b.Log(strings.TrimSpace(text))
		}
	}
}

func BenchmarkPut(b *testing.B) {
	for _, sync := range []bool{true, false} {
		b.Run(fmt.Sprintf("fsync=%v", sync), func(b *testing.B) {
			s, err := Open(b.TempDir(), Options{NoSync: !sync, Log: quiet})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			data := bytesOf(1, chunkSize)
			b.SetBytes(chunkSize)
			i := uint64(0)
			for b.Loop() {
				binary.LittleEndian.PutUint64(data, i)
				i++
				if _, err := s.Put(b.Context(), wire.CodecRaw, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	s := open(b, b.TempDir(), Options{})
	c, err := s.Put(b.Context(), wire.CodecRaw, bytesOf(1, chunkSize))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(chunkSize)
	for b.Loop() {
		if _, err := s.Get(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
