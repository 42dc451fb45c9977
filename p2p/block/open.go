package block

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/shoalnet/shoal/p2p/wire"
)

// leafLeast bounds the leaves of a file that is opened, whose list is in memory: they
// have more bytes than this on average, or are few.
const leafLeast = 8 << 10

// An openFile reads a file out of its leaves, the latest of which it keeps: each is read, and
// hashed, once where they are read in order.
type openFile struct {
	ctx    context.Context
	s      *Store
	root   wire.CID
	leaves []leafAt

	mu   sync.Mutex // guards following
	last int        // of leaves; -1 is none
	data []byte     // of last
}

// leafAt is a leaf and where it ends in its file.
type leafAt struct {
	cid wire.CID
	end int64
}

// Open returns a file of at most limit bytes in the store, to be read a part at a time while ctx
// lasts. All of its blocks are there when it returns. Errors, of reading too: ErrNotFound,
// ErrTooLarge, ErrBadDAG.
func (s *Store) Open(ctx context.Context, c wire.CID, limit int64) (*io.SectionReader, error) {
	size, err := s.FileSize(ctx, c)
	if err == nil && size > limit {
		err = fmt.Errorf("%w of %d bytes: it has %d", ErrTooLarge, limit, size)
	}
	f := &openFile{ctx: ctx, s: s, root: c, last: -1}
	if err == nil {
		left := 4096 + size/leafLeast
		err = f.find(c, size, 0, &left)
	}
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", c, err)
	}
	return io.NewSectionReader(f, 0, size), nil
}

// find lists the leaves of the subtree c, which its parent says has size bytes; left is how many
// more blocks there may be.
func (f *openFile) find(c wire.CID, size int64, depth int, left *int64) error {
	if *left--; *left < 0 || depth > maxDepth {
		return fmt.Errorf("%w: too many or too deep nodes for its size", ErrBadDAG)
	}
	at := int64(0)
	if n := len(f.leaves); n > 0 {
		at = f.leaves[n-1].end
	}
	if c.Codec() != wire.CodecDagPB {
		n, err := f.s.Size(c)
		if err == nil && int64(n) != size {
			err = fmt.Errorf("%w: %s has %d bytes, its parent says %d", ErrBadDAG, c, n, size)
		}
		if err != nil {
			return err
		}
		f.leaves = append(f.leaves, leafAt{c, at + size})
		return nil
	}
	data, err := f.s.Get(f.ctx, c)
	if err != nil {
		return err
	}
	n, err := decodeNode(data)
	if err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	if n.typ == typeDirectory || int64(n.size) != size {
		return fmt.Errorf("%w: %s has %d bytes, its parent says %d", ErrBadDAG, c, n.size, size)
	}
	if len(n.links) == 0 {
		f.leaves = append(f.leaves, leafAt{c, at + size})
	}
	for i, l := range n.links {
		if err := f.find(l.cid, int64(n.sizes[i]), depth+1, left); err != nil {
			return err
		}
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *openFile) ReadAt(b []byte, at int64) (read int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, _ := slices.BinarySearchFunc(f.leaves, at+1, func(l leafAt, at int64) int { return cmp.Compare(l.end, at) })
	for ; read < len(b); i++ {
		if i == len(f.leaves) {
			return read, io.EOF
		}
		begin := int64(0)
		if i > 0 {
			begin = f.leaves[i-1].end
		}
		if err := f.load(i, f.leaves[i].end-begin); err != nil {
			return read, fmt.Errorf("file %s: %w", f.root, err)
		}
		read += copy(b[read:], f.data[at+int64(read)-begin:])
	}
	return read, nil
}

// load makes leaf i, of size bytes, the latest.
func (f *openFile) load(i int, size int64) error {
	if i == f.last {
		return nil
	}
	c := f.leaves[i].cid
	data, err := f.s.Get(f.ctx, c)
	if err != nil {
		return err
	}
	if c.Codec() == wire.CodecDagPB {
		n, err := decodeNode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		data = n.data
	}
	if int64(len(data)) != size {
		return fmt.Errorf("%w: %s has %d bytes, its parent says %d", ErrBadDAG, c, len(data), size)
	}
	f.last, f.data = i, data
	return nil
}

// OpenDir opens the files, by name, of a directory in the store, if they have at most
// limit bytes in sum: see Open.
func (s *Store) OpenDir(ctx context.Context, dir wire.CID, limit int64) (map[string]*io.SectionReader, error) {
	entries, err := s.List(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", dir, err)
	}
	files := make(map[string]*io.SectionReader, len(entries))
	for _, e := range entries {
		f, err := s.Open(ctx, e.CID, limit)
		if err != nil {
			return nil, fmt.Errorf("directory %s: %s: %w", dir, e.Name, err)
		}
		limit -= f.Size()
		files[e.Name] = f
	}
	return files, nil
}
