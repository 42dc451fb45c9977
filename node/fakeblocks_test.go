package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

var errFull error = syscall.ENOSPC

// shelf is an in-memory store, which outlives its node as a disk does.
type shelf struct {
	mu     sync.Mutex // guards the following
	blocks map[wire.CID][]byte
	since  map[wire.CID]time.Time // when a block came
	pins   map[string]wire.CID
	full   bool
	serves func(wire.CID, []byte) bool // what others get; nil: all
	stalls func(wire.CID, []byte) bool // what others wait for in vain
}

func newShelf() *shelf {
	return &shelf{blocks: map[wire.CID][]byte{}, since: map[wire.CID]time.Time{}, pins: map[string]wire.CID{}}
}

// copy is the disk as it is now: what a crash leaves.
func (s *shelf) copy() *shelf {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &shelf{blocks: maps.Clone(s.blocks), since: maps.Clone(s.since), pins: maps.Clone(s.pins)}
}

func (s *shelf) setFull(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = v
}

func (s *shelf) drop(c wire.CID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blocks, c)
}

func (s *shelf) put(codec uint64, data []byte) (wire.CID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := wire.SumCID(codec, data)
	if _, ok := s.blocks[c]; !ok && s.full {
		return "", errFull
	}
	s.blocks[c] = slices.Clone(data)
	s.since[c] = time.Now()
	return c, nil
}

func (s *shelf) get(c wire.CID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blocks[c]
	if !ok {
		return nil, fmt.Errorf("%s: %w", c, ErrNotFound)
	}
	return b, nil
}

// fakeDir stands for a UnixFS directory: names and the CIDs of raw files.
type fakeDir struct {
	Names []string   `cbor:"names"`
	Links []wire.CID `cbor:"links"`
}

// below returns c and the blocks below it.
func (s *shelf) below(c wire.CID) ([]wire.CID, error) {
	b, err := s.get(c)
	if err != nil {
		return nil, err
	}
	out := []wire.CID{c}
	if c.Codec() == wire.CodecDagPB {
		var d fakeDir
		if err := wire.Unmarshal(b, &d); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadContent, err)
		}
		for _, l := range d.Links {
			if _, err := s.get(l); err != nil {
				return nil, err
			}
			out = append(out, l)
		}
	}
	return out, nil
}

// crate is one node's Blocks: its shelf, and an exchange over the sea.
type crate struct {
	*shelf
	host *host
}

func (k *crate) Put(_ context.Context, codec uint64, data []byte) (wire.CID, error) {
	return k.put(codec, data)
}
func (k *crate) Get(_ context.Context, c wire.CID) ([]byte, error) { return k.get(c) }
func (k *crate) PutFile(_ context.Context, data []byte) (wire.CID, error) {
	return k.put(wire.CodecRaw, data)
}

func (k *crate) PutDir(_ context.Context, files map[string]io.Reader) (wire.CID, error) {
	var d fakeDir
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data, err := io.ReadAll(files[name])
		if err != nil {
			return "", err
		}
		c, err := k.put(wire.CodecRaw, data)
		if err != nil {
			return "", err
		}
		d.Names, d.Links = append(d.Names, name), append(d.Links, c)
	}
	b, err := wire.Marshal(&d)
	if err != nil {
		return "", err
	}
	return k.put(wire.CodecDagPB, b)
}

func (k *crate) GetFile(_ context.Context, c wire.CID, limit int64) ([]byte, error) {
	b, err := k.get(c)
	if err == nil && int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %d bytes", ErrBadContent, len(b))
	}
	return b, err
}

func (k *crate) OpenDir(_ context.Context, c wire.CID, limit int64) (map[string]*io.SectionReader, error) {
	d, err := k.dir(c)
	if err != nil {
		return nil, err
	}
	out := map[string]*io.SectionReader{}
	for i, l := range d.Links {
		f, err := k.get(l)
		if err != nil {
			return nil, err
		}
		if limit -= int64(len(f)); limit < 0 {
			return nil, fmt.Errorf("%w: directory is too large", ErrBadContent)
		}
		out[d.Names[i]] = io.NewSectionReader(bytes.NewReader(f), 0, int64(len(f)))
	}
	return out, nil
}

func (k *crate) dir(c wire.CID) (d fakeDir, err error) {
	b, err := k.get(c)
	if err != nil {
		return d, err
	}
	if err := wire.Unmarshal(b, &d); err != nil || len(d.Names) != len(d.Links) {
		return d, fmt.Errorf("%w: not a directory", ErrBadContent)
	}
	return d, nil
}

func (k *crate) FetchEntry(ctx context.Context, dir wire.CID, name string, from []wire.PeerID, limit int64) ([]byte, error) {
	if _, err := k.fetch(ctx, dir, from, 1<<20); err != nil {
		return nil, err
	}
	d, err := k.dir(dir)
	if err != nil {
		return nil, err
	}
	for i, l := range d.Links {
		if d.Names[i] == name {
			return k.fetch(ctx, l, from, limit)
		}
	}
	return nil, nil
}

// fetch gets one block from the first of the peers in reach that has it.
func (k *crate) fetch(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	if b, err := k.get(c); err == nil {
		if int64(len(b)) > limit {
			return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrBadContent, len(b), limit)
		}
		return b, nil
	}
	if len(from) == 0 {
		from = k.host.Peers()
	}
	if err := pause(ctx, 2*k.host.sea.delay); err != nil {
		return nil, err
	}
	for _, p := range from {
		o := k.host.sea.reach(k.host.self, p)
		if o == nil {
			continue
		}
		b, err := o.blocks.get(c)
		if err == nil && o.blocks.stalls != nil && o.blocks.stalls(c, b) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if err != nil || o.blocks.serves != nil && !o.blocks.serves(c, b) {
			continue
		}
		o.count(0, len(b))
		k.host.count(len(b), 0)
		if int64(len(b)) > limit {
			return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrBadContent, len(b), limit)
		}
		if _, err := k.put(c.Codec(), b); err != nil {
			return nil, err
		}
		return b, nil
	}
	return nil, fmt.Errorf("%s: %w", c, ErrNotFound)
}

func (k *crate) Fetch(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	return k.fetch(ctx, c, from, limit)
}

func (k *crate) FetchFile(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error) {
	return k.fetch(ctx, c, from, limit)
}

func (k *crate) FetchDir(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64, progress func(done, total int64)) error {
	b, err := k.fetch(ctx, c, from, limit)
	if err != nil {
		return err
	}
	var d fakeDir
	if err := wire.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("%w: %w", ErrBadContent, err)
	}
	done := int64(len(b))
	for _, l := range d.Links {
		f, err := k.fetch(ctx, l, from, limit-done)
		if err != nil {
			return err
		}
		done += int64(len(f))
		if progress != nil {
			progress(done, 0)
		}
	}
	return nil
}

func (k *crate) Pin(name string, c wire.CID) error {
	if _, err := k.below(c); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pins[name] = c
	return nil
}

func (k *crate) Unpin(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pins, name)
	return nil
}

func (k *crate) Pins() (map[string]wire.CID, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.pins), nil
}

// GC collects everything that is not pinned and has lain for a minute.
func (k *crate) GC(context.Context) error {
	pins, err := k.Pins()
	if err != nil {
		return err
	}
	hold := map[wire.CID]bool{}
	for _, c := range pins {
		list, err := k.below(c)
		if err != nil {
			return err
		}
		for _, b := range list {
			hold[b] = true
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.blocks {
		if !hold[c] && time.Since(k.since[c]) > time.Minute {
			delete(k.blocks, c)
		}
	}
	return nil
}

func (k *crate) Usage() (n int64, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, b := range k.blocks {
		n += int64(len(b))
	}
	return n, nil
}
