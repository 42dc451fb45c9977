package p2p

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Bounds of the peer cache, in memory and on disk.
const (
	maxCached     = 128
	maxCacheAddrs = 8
	maxCacheFile  = 1 << 20
	maxCacheAge   = 30 * 24 * time.Hour
	cacheVersion  = 1
)

// cache remembers peers that answered, newest first, and who is banned. On
// disk it is one JSON file, replaced atomically:
//
//	{"version":1,"peers":[{"peer":"16Uiu2…","addrs":["/ip4/…"],"seen":"…"}],"banned":[{"peer":"…","at":"…"}]}
type cache struct {
	path   string
	self   wire.PeerID
	log    *slog.Logger
	banned []bannedPeer // as read; the gater owns them from then on

	mu    sync.Mutex // guards following
	peers map[wire.PeerID]cachedPeer
	saved []byte // what the file holds

	saving sync.Mutex // held while the file is replaced
}

type cachedPeer struct {
	Peer  wire.PeerID `json:"peer"`
	Addrs []string    `json:"addrs"`
	Seen  time.Time   `json:"seen"`
}

type cacheFile struct {
	Version int          `json:"version"`
	Peers   []cachedPeer `json:"peers"`
	Banned  []bannedPeer `json:"banned,omitempty"`
}

// loadCache reads path. A missing file is an empty cache; one that does not
// parse is renamed to path.corrupt with a warning, and the cache is empty.
func loadCache(path string, self wire.PeerID, log *slog.Logger) *cache {
	c := &cache{path: path, self: self, log: log, peers: make(map[wire.PeerID]cachedPeer)}
	if path == "" {
		return c
	}
	f, err := readCache(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c
	case err != nil:
		aside := path + ".corrupt"
		if rerr := os.Rename(path, aside); rerr != nil {
			err = errors.Join(err, rerr)
		}
		log.Warn("the peer cache cannot be read: it is put aside, and peers are found by bootstraps only", "aside", aside, "err", err)
		return c
	}
	c.banned = f.Banned
	for _, p := range f.Peers {
		if p.Peer != self {
			c.peers[p.Peer] = p
		}
	}
	return c
}

func readCache(path string) (*cacheFile, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxCacheFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	f, err := parseCache(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// parseCache checks everything that a peer cache holds.
func parseCache(b []byte) (*cacheFile, error) {
	if len(b) > maxCacheFile {
		return nil, fmt.Errorf("larger than %d bytes", maxCacheFile)
	}
	f := new(cacheFile)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	if f.Version != cacheVersion {
		return nil, fmt.Errorf("version is %d, want %d", f.Version, cacheVersion)
	}
	if len(f.Peers) > maxCached || len(f.Banned) > maxBans {
		return nil, fmt.Errorf("%d peers and %d bans are over the limits of %d and %d", len(f.Peers), len(f.Banned), maxCached, maxBans)
	}
	for i, p := range f.Peers {
		if p.Peer.IsZero() || len(p.Addrs) == 0 || len(p.Addrs) > maxCacheAddrs {
			return nil, fmt.Errorf("peers[%d]: no peer, no address or more than %d", i, maxCacheAddrs)
		}
		for _, s := range p.Addrs {
			if _, err := ma.NewMultiaddr(s); err != nil || len(s) > 512 {
				return nil, fmt.Errorf("peers[%d]: bad address %.80q", i, s)
			}
		}
	}
	for i, p := range f.Banned {
		if p.Peer.IsZero() {
			return nil, fmt.Errorf("banned[%d]: no peer", i)
		}
	}
	return f, nil
}

// note remembers that p is connected and may be reached at addrs. Direct
// addresses are kept before relayed ones.
func (c *cache) note(p wire.PeerID, addrs []ma.Multiaddr, now time.Time) {
	if p == c.self {
		return
	}
	var kept []string
	for _, relayed := range []bool{false, true} {
		for _, a := range addrs {
			if s := a.String(); isRelayed(a) == relayed && len(kept) < maxCacheAddrs && len(s) <= 512 && !slices.Contains(kept, s) {
				kept = append(kept, s)
			}
		}
	}
	if len(kept) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers[p] = cachedPeer{p, kept, now.UTC()}
	if len(c.peers) > maxCached+maxCached/2 { // trimmed in bulk
		for _, old := range c.sortedLocked()[maxCached:] {
			delete(c.peers, old.Peer)
		}
	}
}

// seen returns when p was last seen, zero if it is not remembered.
func (c *cache) seen(p wire.PeerID) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peers[p].Seen
}

func (c *cache) forget(p wire.PeerID) {
	c.mu.Lock()
	delete(c.peers, p)
	c.mu.Unlock()
}

func (c *cache) sortedLocked() []cachedPeer {
	out := make([]cachedPeer, 0, len(c.peers))
	for _, p := range c.peers {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b cachedPeer) int {
		if x := b.Seen.Compare(a.Seen); x != 0 {
			return x
		}
		return a.Peer.Compare(b.Peer)
	})
	return out
}

// infos returns the remembered peers as libp2p dials them, last seen first.
func (c *cache) infos(now time.Time) []peer.AddrInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []peer.AddrInfo
	for _, p := range c.sortedLocked() {
		if len(out) == maxCached || now.Sub(p.Seen) > maxCacheAge {
			break
		}
		info := peer.AddrInfo{ID: FromWire(p.Peer)}
		for _, s := range p.Addrs {
			if a, err := ma.NewMultiaddr(s); err == nil {
				info.Addrs = append(info.Addrs, a)
			}
		}
		out = append(out, info)
	}
	return out
}

// save replaces the file if anything changed. After a crash the file is the
// old one or the new one.
func (c *cache) save(banned []bannedPeer) error {
	if c.path == "" {
		return nil
	}
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.Lock()
	peers := c.sortedLocked()
	saved := c.saved
	c.mu.Unlock()
	b, err := json.MarshalIndent(cacheFile{cacheVersion, peers[:min(len(peers), maxCached)], banned}, "", " ")
	if err != nil {
		return fmt.Errorf("encode peer cache: %w", err)
	}
	if bytes.Equal(b, saved) {
		return nil
	}
	if err := ReplaceFile(c.path, b); err != nil {
		return fmt.Errorf("save peer cache: %w", err)
	}
	c.mu.Lock()
	c.saved = b
	c.mu.Unlock()
	return nil
}

// ReplaceFile makes b the content of path so that after a crash the file is the
// old one or the new one: it writes beside path, syncs, and renames.
func ReplaceFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil // the rename is done; only its durability is unknown
	}
	defer d.Close()
	d.Sync() // not every file system can sync a directory
	return nil
}
