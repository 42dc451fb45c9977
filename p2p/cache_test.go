package p2p

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/shoalnet/shoal/p2p/wire"
)

func addrs(t testing.TB, in ...string) (out []ma.Multiaddr) {
	t.Helper()
	for _, s := range in {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func TestCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	self, now := testKey(t, 1).Peer(), time.Unix(1_700_000_000, 0)
	c := loadCache(path, self, discard)
	p, q := testKey(t, 2).Peer(), testKey(t, 3).Peer()
	relayed := "/ip4/1.2.3.4/udp/1/quic-v1/p2p/" + q.String() + "/p2p-circuit"
	c.note(p, addrs(t, relayed, "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1"), now)
	c.note(q, addrs(t, "/ip4/1.2.3.4/tcp/2"), now.Add(time.Hour))
	c.note(self, addrs(t, "/ip4/1.2.3.4/tcp/3"), now)
	c.note(testKey(t, 4).Peer(), nil, now)
	bans := []bannedPeer{{testKey(t, 5).Peer(), now.UTC()}}
	if err := c.save(bans); err != nil {
		t.Fatal(err)
	}
	d := loadCache(path, self, discard)
	got := d.infos(now)
	if len(got) != 2 || got[0].ID != FromWire(q) || got[1].ID != FromWire(p) {
		t.Fatalf("remembered: %v", got)
	}
	if want := addrs(t, "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1", relayed); fmt.Sprint(got[1].Addrs) != fmt.Sprint(want) {
		t.Errorf("addresses %v, want the direct ones first: %v", got[1].Addrs, want)
	}
	if !reflect.DeepEqual(d.banned, bans) {
		t.Errorf("bans %v, want %v", d.banned, bans)
	}
	if n := len(d.infos(now.Add(maxCacheAge + 30*time.Minute))); n != 1 {
		t.Errorf("%d peers are recent, want 1", n)
	}
	d.forget(q)
	d.note(p, addrs(t, "/ip4/1.2.3.4/tcp/1"), now.Add(time.Minute))
	if got := d.infos(now); len(got) != 1 || len(got[0].Addrs) != 1 || !d.seen(p).Equal(now.Add(time.Minute)) {
		t.Errorf("after forget and note: %v", got)
	}
}

func TestCacheBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	c := loadCache(path, wire.PeerID{}, discard)
	now := time.Unix(1_700_000_000, 0)
	var many []string
	for i := range 50 {
		many = append(many, fmt.Sprintf("/ip4/1.2.3.%d/tcp/1", i))
	}
	for i := range 1000 {
		c.note(testKey(t, byte(i%250+1)).Peer(), addrs(t, many...), now.Add(time.Duration(i)*time.Second))
	}
	if err := c.save(nil); err != nil {
		t.Fatal(err)
	}
	if n := len(c.peers); n > maxCached+maxCached/2 {
		t.Errorf("%d peers in memory", n)
	}
	got := loadCache(path, wire.PeerID{}, discard).infos(now)
	if len(got) != maxCached || len(got[0].Addrs) != maxCacheAddrs {
		t.Errorf("%d peers on disk, the first with %d addresses", len(got), len(got[0].Addrs))
	}
	if got[0].ID != FromWire(testKey(t, 250).Peer()) {
		t.Error("the peer seen last is not first")
	}
}

// A cache that cannot be read is put aside, and the host starts all the same.
func TestCacheCorrupt(t *testing.T) {
	peers := `{"peer":"` + testKey(t, 2).Peer().String() + `","addrs":["/ip4/1.2.3.4/tcp/1"],"seen":"2026-01-01T00:00:00Z"}`
	for name, content := range map[string]string{
		"empty":       "",
		"binary":      "\x00\xff\x13",
		"truncated":   `{"version":1,"peers":[` + peers,
		"version":     `{"version":2,"peers":[]}`,
		"unknown key": `{"version":1,"peers":[],"leader":"x"}`,
		"trailing":    `{"version":1,"peers":[]} {}`,
		"bad peer":    `{"version":1,"peers":[{"peer":"16Uiu2xxx","addrs":["/ip4/1.2.3.4/tcp/1"],"seen":"2026-01-01T00:00:00Z"}]}`,
		"no peer":     `{"version":1,"peers":[{"addrs":["/ip4/1.2.3.4/tcp/1"],"seen":"2026-01-01T00:00:00Z"}]}`,
		"bad address": strings.ReplaceAll(`{"version":1,"peers":[`+peers+`]}`, "/tcp/", "/nonsense/"),
		"too many":    `{"version":1,"peers":[` + strings.Repeat(peers+",", maxCached) + peers + `]}`,
		"too large":   `{"version":1,"peers":[]` + strings.Repeat(" ", maxCacheFile) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "peers.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			c := loadCache(path, wire.PeerID{}, discard)
			if len(c.peers) != 0 {
				t.Error("something was read")
			}
			b, err := os.ReadFile(path + ".corrupt")
			if err != nil || string(b) != content {
				t.Errorf("not put aside: %v", err)
			}
			c.note(testKey(t, 3).Peer(), addrs(t, "/ip4/1.2.3.4/tcp/1"), time.Now())
			if err := c.save(nil); err != nil {
				t.Error(err)
			}
			if len(loadCache(path, wire.PeerID{}, discard).peers) != 1 {
				t.Error("the new cache does not hold")
			}
		})
	}
	c := local(t, 1)
	c.CachePath = filepath.Join(t.TempDir(), "nowhere", "peers.json") // cannot be written
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err == nil || !strings.Contains(err.Error(), "peer cache") {
		t.Errorf("close with an unwritable cache: %v", err)
	}
}

func FuzzParseCache(f *testing.F) {
	f.Add([]byte(`{"version":1,"peers":[{"peer":"16Uiu2HAmSH2XVgZqYHWucap5kuPzLnt2TsNQkoppVxB5eJGvaXwm","addrs":["/ip4/1.2.3.4/tcp/1"],"seen":"2026-01-01T00:00:00Z"}],"banned":[]}`))
	f.Add([]byte(`{"version":1,"peers":[],"banned":[{"peer":"x","at":"y"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCache(b)
		if err != nil {
			return
		}
		if c.Version != cacheVersion || len(c.Peers) > maxCached || len(c.Banned) > maxBans {
			t.Fatal("out of bounds")
		}
		for _, p := range c.Peers {
			if _, err := ToWire(FromWire(p.Peer)); err != nil || len(p.Addrs) > maxCacheAddrs {
				t.Fatal(err)
			}
		}
	})
}
