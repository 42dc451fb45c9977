package block

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/shoalnet/shoal/p2p/wire"
)

// part is a subtree of a file under construction.
type part struct {
	cid   wire.CID
	size  uint64 // bytes of the file in it
	tsize uint64 // bytes of its blocks
}

// builder makes a balanced UnixFS tree from the left. Leaves are written apart, a
// node when all that is below it is there.
type builder struct {
	s      *Store
	chunk  int // bytes in a leaf
	width  int // links in a node
	held   []hash
	levels [][]part // levels[0] are leaves not yet under a node

	work  sync.WaitGroup // leaves being written
	slots chan struct{}  // of writers
	mu    sync.Mutex     // guards err
	err   error          // the first of a leaf
}

func newBuilder(s *Store, chunk, width int) *builder {
	return &builder{s: s, chunk: chunk, width: width, slots: make(chan struct{}, writers)}
}

// build calls f with a builder and lets go of what it held.
func (s *Store) build(f func(*builder) (wire.CID, error)) (wire.CID, error) {
	b := newBuilder(s, chunkSize, fanout)
	defer func() {
		b.work.Wait()
		s.release(b.held...)
	}()
	return f(b)
}

// hold names a block and keeps it from collection until the whole tree is there.
func (b *builder) hold(codec uint64, data []byte) (wire.CID, error) {
	c := wire.SumCID(codec, data)
	h, err := hashOf(c)
	if err != nil {
		return "", err
	}
	b.s.hold(h)
	b.held = append(b.held, h)
	return c, nil
}

// leaf begins to write a leaf. Its bytes must stay as they are until wait.
func (b *builder) leaf(ctx context.Context, data []byte) (wire.CID, error) {
	c, err := b.hold(wire.CodecRaw, data)
	if err != nil {
		return "", err
	}
	b.slots <- struct{}{}
	if err := b.failed(); err != nil {
		<-b.slots
		return "", err
	}
	b.work.Go(func() {
		defer func() { <-b.slots }()
		if err := b.s.putVerified(ctx, c, data); err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.err = cmp.Or(b.err, err)
		}
	})
	return c, nil
}

func (b *builder) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// wait returns when all leaves so far are written.
func (b *builder) wait() error {
	b.work.Wait()
	return b.failed()
}

// put writes a node.
func (b *builder) put(ctx context.Context, data []byte) (wire.CID, error) {
	if err := b.wait(); err != nil {
		return "", err
	}
	c, err := b.hold(wire.CodecDagPB, data)
	if err != nil {
		return "", err
	}
	return c, b.s.putVerified(ctx, c, data)
}

// add enters a part at a level and closes nodes that are full.
func (b *builder) add(ctx context.Context, level int, p part) error {
	if level == len(b.levels) {
		b.levels = append(b.levels, nil)
	}
	b.levels[level] = append(b.levels[level], p)
	if len(b.levels[level]) == b.width {
		return b.close(ctx, level)
	}
	return nil
}

// close makes one node of a level's parts.
func (b *builder) close(ctx context.Context, level int) error {
	n := node{typ: typeFile}
	var tsize uint64
	for _, p := range b.levels[level] {
		n.links = append(n.links, link{cid: p.cid, tsize: p.tsize})
		n.sizes = append(n.sizes, p.size)
		n.size += p.size
		tsize += p.tsize
	}
	b.levels[level] = b.levels[level][:0]
	data := n.encode()
	c, err := b.put(ctx, data)
	if err != nil {
		return err
	}
	return b.add(ctx, level+1, part{c, n.size, tsize + uint64(len(data))})
}

// finish closes what is open and returns the root.
func (b *builder) finish(ctx context.Context) (part, error) {
	for level := 0; ; level++ {
		top := true
		for _, l := range b.levels[level+1:] {
			top = top && len(l) == 0
		}
		if top && len(b.levels[level]) == 1 {
			return b.levels[level][0], nil
		}
		if len(b.levels[level]) > 0 {
			if err := b.close(ctx, level); err != nil {
				return part{}, err
			}
		}
	}
}

// chunks gives a file chunk by chunk: the next n bytes, fewer at its end, then
// none. What it gives is not changed any more.
type chunks func(n int) ([]byte, error)

// chunksOf copies nothing of data.
func chunksOf(data []byte) chunks {
	buf := bytes.NewBuffer(data)
	return func(n int) ([]byte, error) { return buf.Next(n), nil }
}

func readChunks(r io.Reader) chunks {
	return func(n int) ([]byte, error) {
		buf := make([]byte, n)
		got, err := io.ReadFull(r, buf)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		return buf[:got], err
	}
}

func (b *builder) file(ctx context.Context, next chunks) (part, error) {
	b.levels = [][]part{nil}
	for first := true; ; first = false {
		data, err := next(b.chunk)
		if err != nil {
			return part{}, err
		}
		if len(data) > 0 || first {
			c, err := b.leaf(ctx, data)
			if err != nil {
				return part{}, err
			}
			if err := b.add(ctx, 0, part{c, uint64(len(data)), uint64(len(data))}); err != nil {
				return part{}, err
			}
		}
		if len(data) < b.chunk {
			if err := b.wait(); err != nil {
				return part{}, err
			}
			return b.finish(ctx)
		}
	}
}

// PutFile stores data, which must not change meanwhile, as a UnixFS file and returns
// its root: for at most 1 MiB the raw block itself. The blocks stay for Options.Grace; pin the root.
func (s *Store) PutFile(ctx context.Context, data []byte) (wire.CID, error) {
	return s.putFile(ctx, chunksOf(data))
}

// PutReader is PutFile of all that r holds, with some 10 MiB of it in memory at a time.
func (s *Store) PutReader(ctx context.Context, r io.Reader) (wire.CID, error) {
	return s.putFile(ctx, readChunks(r))
}

func (s *Store) putFile(ctx context.Context, from chunks) (wire.CID, error) {
	c, err := s.build(func(b *builder) (wire.CID, error) {
		p, err := b.file(ctx, from)
		return p.cid, err
	})
	if err != nil {
		return "", fmt.Errorf("put file: %w", err)
	}
	return c, nil
}

// PutDir stores what the readers hold, by name, as a flat UnixFS directory and returns its
// root. Some 10 MiB of it are in memory at a time.
func (s *Store) PutDir(ctx context.Context, files map[string]io.Reader) (wire.CID, error) {
	c, err := s.build(func(b *builder) (wire.CID, error) {
		var links []link
		for name, r := range files {
			if err := checkName(name); err != nil {
				return "", err
			}
			p, err := b.file(ctx, readChunks(r))
			if err != nil {
				return "", fmt.Errorf("%s: %w", name, err)
			}
			links = append(links, link{p.cid, name, p.tsize})
		}
		return b.directory(ctx, links)
	})
	if err != nil {
		return "", fmt.Errorf("put directory: %w", err)
	}
	return c, nil
}

// PutLinks stores a directory of files, by name, that are in the store already.
func (s *Store) PutLinks(ctx context.Context, files map[string]wire.CID) (wire.CID, error) {
	c, err := s.build(func(b *builder) (wire.CID, error) {
		var links []link
		for name, c := range files {
			n, err := s.treeSize(ctx, c)
			if err != nil {
				return "", fmt.Errorf("%s: %w", name, err)
			}
			links = append(links, link{c, name, n})
		}
		return b.directory(ctx, links)
	})
	if err != nil {
		return "", fmt.Errorf("put directory: %w", err)
	}
	return c, nil
}

// treeSize sums the blocks below c as dag-pb counts them: shared ones each time
// that they are linked to.
func (s *Store) treeSize(ctx context.Context, c wire.CID) (uint64, error) {
	data, err := s.Get(ctx, c)
	if err != nil || c.Codec() != wire.CodecDagPB {
		return uint64(len(data)), err
	}
	n, err := decodeNode(data)
	if err != nil {
		return 0, err
	}
	sum := uint64(len(data))
	for _, l := range n.links {
		sum += l.tsize
	}
	return sum, nil
}

func (b *builder) directory(ctx context.Context, links []link) (wire.CID, error) {
	slices.SortFunc(links, func(a, c link) int { return strings.Compare(a.name, c.name) })
	n := node{typ: typeDirectory, links: links}
	if err := n.check(); err != nil {
		return "", err
	}
	data := n.encode()
	if len(data) > maxPut { // beyond this, IPFS implementations shard (HAMT)
		return "", fmt.Errorf("directory of %d entries needs %d bytes, the limit is %d: %w", len(links), len(data), maxPut, ErrTooLarge)
	}
	return b.put(ctx, data)
}

// GetFile returns a file of at most limit bytes from the store.
func (s *Store) GetFile(ctx context.Context, c wire.CID, limit int64) ([]byte, error) {
	r, err := s.Open(ctx, c, limit)
	if err != nil {
		return nil, err
	}
	data := make([]byte, r.Size()) // its blocks have as many
	_, err = io.ReadFull(r, data)
	return data, err
}

// WriteFile writes a file of at most limit bytes from the store to w and
// returns its size. Errors: ErrNotFound, ErrTooLarge, ErrBadDAG, before anything is
// written where it shows by then.
func (s *Store) WriteFile(ctx context.Context, w io.Writer, c wire.CID, limit int64) (int64, error) {
	r, err := s.Open(ctx, c, limit)
	if err != nil {
		return 0, err
	}
	return io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, chunkSize)) // which hides w's own way of reading
}

// FileSize returns the size of a file in bytes by the word of its root block.
func (s *Store) FileSize(ctx context.Context, c wire.CID) (int64, error) {
	data, err := s.Get(ctx, c)
	if err != nil {
		return 0, err
	}
	switch c.Codec() {
	case wire.CodecRaw:
		return int64(len(data)), nil
	case wire.CodecDagPB:
		n, err := decodeNode(data)
		if err != nil {
			return 0, err
		}
		if n.typ == typeDirectory {
			return 0, fmt.Errorf("%w: a directory where a file is wanted", ErrBadDAG)
		}
		return int64(n.size), nil
	}
	return 0, fmt.Errorf("%w: codec 0x%x is no file", ErrBadDAG, c.Codec())
}

// DirEntry is a file in a directory.
type DirEntry struct {
	Name string   `json:"name"`
	CID  wire.CID `json:"cid"`
}

// List returns a directory's entries, sorted by name.
func (s *Store) List(ctx context.Context, dir wire.CID) ([]DirEntry, error) {
	data, err := s.Get(ctx, dir)
	if err != nil {
		return nil, err
	}
	if dir.Codec() != wire.CodecDagPB {
		return nil, fmt.Errorf("%w: %s is not a directory", ErrBadDAG, dir)
	}
	n, err := decodeNode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if n.typ != typeDirectory {
		return nil, fmt.Errorf("%w: %s is a file, not a directory", ErrBadDAG, dir)
	}
	entries := make([]DirEntry, len(n.links))
	for i, l := range n.links {
		entries[i] = DirEntry{l.name, l.cid}
	}
	return entries, nil
}

// GetDir returns the files, by name, of a directory from the store, if they
// have at most limit bytes in sum.
func (s *Store) GetDir(ctx context.Context, dir wire.CID, limit int64) (map[string][]byte, error) {
	open, err := s.OpenDir(ctx, dir, limit)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte, len(open))
	for name, r := range open {
		files[name] = make([]byte, r.Size())
		if _, err := io.ReadFull(r, files[name]); err != nil {
			return nil, fmt.Errorf("directory %s: %s: %w", dir, name, err)
		}
	}
	return files, nil
}
