package block

import (
	"fmt"

	"github.com/shoalnet/shoal/p2p/wire"
)

// shape is what a fetch wants: one block, or what a root reaches.
type shape int

const (
	oneBlock shape = iota
	aFile
	aDir
)

// plan follows a DAG while its blocks come in, and refuses what is larger than
// the caller allows, contradicts itself, or is not a file or flat directory.
// Sizes that a file node states are binding for what it links to, so the whole
// size is known, and checked, when the first nodes are there.
type plan struct {
	shape shape
	limit int64 // bytes of file content
	seen  map[wire.CID]*item
	data  int64 // bytes of file content promised or seen
	nodes int64 // bytes of nodes seen
	total int64 // estimate of all bytes, for progress
}

// item is a block of the DAG.
type item struct {
	shape shape // aFile for file nodes and leaves, aDir for the root of a directory
	size  int64 // bytes of file content below it, -1 if no parent says
	guess int64 // bytes of the block itself
	depth int
}

func newPlan(root wire.CID, shape shape, limit int64) (*plan, error) {
	if _, err := hashOf(root); err != nil {
		return nil, err
	}
	codec := root.Codec()
	if shape == aFile && codec != wire.CodecRaw && codec != wire.CodecDagPB || shape == aDir && codec != wire.CodecDagPB {
		return nil, fmt.Errorf("%w: %s has codec 0x%x", ErrBadDAG, root, codec)
	}
	it := &item{shape: shape, size: -1, guess: leafGuess}
	if codec == wire.CodecDagPB {
		it.guess = nodeGuess
	}
	it.guess = min(it.guess, max(1, limit))
	return &plan{shape: shape, limit: limit, seen: map[wire.CID]*item{root: it}, total: it.guess}, nil
}

// arrived checks the block c, whose hash is known to match, and returns the
// blocks that it links to and that were not met before.
func (p *plan) arrived(c wire.CID, data []byte) ([]wire.CID, error) {
	it := p.seen[c]
	if it == nil {
		return nil, nil // not of this DAG
	}
	n := int64(len(data))
	if p.shape == oneBlock {
		p.total = n
		if n > p.limit {
			return nil, fmt.Errorf("block %s has %d bytes: %w of %d", c, n, ErrTooLarge, p.limit)
		}
		return nil, nil
	}
	if c.Codec() == wire.CodecRaw {
		if it.size >= 0 && it.size != n {
			return nil, fmt.Errorf("%w: leaf %s has %d bytes, its parent says %d", ErrBadDAG, c, n, it.size)
		}
		if it.size < 0 { // a file of one block
			p.total += n - it.guess
			return nil, p.promise(n)
		}
		return nil, nil
	}
	if p.nodes += n; p.nodes > p.limit/16+4<<20 {
		return nil, fmt.Errorf("%w: more nodes than its content warrants", ErrBadDAG)
	}
	nd, err := decodeNode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	p.total += n - it.guess
	if (nd.typ == typeDirectory) != (it.shape == aDir) {
		return nil, fmt.Errorf("%w: %s is a directory where a file is wanted, or the reverse", ErrBadDAG, c)
	}
	if it.depth >= maxDepth && len(nd.links) > 0 {
		return nil, fmt.Errorf("%w: deeper than %d levels", ErrBadDAG, maxDepth)
	}
	if it.shape == aDir {
		return p.directory(it, nd)
	}
	return p.file(c, it, nd)
}

// promise counts n bytes of content.
func (p *plan) promise(n int64) error {
	if p.data += n; p.data > p.limit || p.data < 0 {
		return fmt.Errorf("content has at least %d bytes: %w of %d", p.data, ErrTooLarge, p.limit)
	}
	return nil
}

func (p *plan) directory(it *item, nd *node) ([]wire.CID, error) {
	claimed := int64(0)
	for _, l := range nd.links {
		// Only a hint, but who claims too much is believed.
		if claimed += int64(min(l.tsize, 1<<40)); claimed > p.limit+p.limit/16+4<<20 {
			return nil, fmt.Errorf("directory says that it has over %d bytes: %w of %d", claimed, ErrTooLarge, p.limit)
		}
	}
	var fresh []wire.CID
	for _, l := range nd.links {
		if p.seen[l.cid] != nil {
			continue
		}
		guess := max(1, int64(min(l.tsize, chunkSize)))
		if l.cid.Codec() == wire.CodecDagPB {
			guess = nodeGuess
			p.total += max(0, int64(l.tsize)-guess)
		}
		p.total += guess
		p.seen[l.cid] = &item{shape: aFile, size: -1, guess: guess, depth: it.depth + 1}
		fresh = append(fresh, l.cid)
	}
	return fresh, nil
}

func (p *plan) file(c wire.CID, it *item, nd *node) ([]wire.CID, error) {
	size := int64(nd.size)
	if it.size >= 0 && it.size != size {
		return nil, fmt.Errorf("%w: %s has %d bytes, its parent says %d", ErrBadDAG, c, size, it.size)
	}
	if it.size < 0 {
		if err := p.promise(size); err != nil {
			return nil, err
		}
		if it.depth == 0 { // a directory has counted its files already
			p.total += size
		}
	}
	var fresh []wire.CID
	for i, l := range nd.links {
		part := int64(nd.sizes[i])
		if old := p.seen[l.cid]; old != nil {
			if old.shape != aFile || old.size >= 0 && old.size != part {
				return nil, fmt.Errorf("%w: %s has different sizes in different places", ErrBadDAG, l.cid)
			}
			continue
		}
		guess := part
		if l.cid.Codec() == wire.CodecDagPB {
			guess = nodeGuess
		} else if part > MaxBlock {
			return nil, fmt.Errorf("%w: leaf %s of %d bytes", ErrBadDAG, l.cid, part)
		}
		p.seen[l.cid] = &item{shape: aFile, size: part, guess: guess, depth: it.depth + 1}
		fresh = append(fresh, l.cid)
	}
	return fresh, nil
}
