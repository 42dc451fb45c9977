package block

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/p2p/wire"
)

// PinRecovered is the pin that holds every block found when a damaged database
// was rebuilt: the names of the lost pins are unknown, so nothing may go. Once
// the node has pinned what it needs again, it calls Unpin(PinRecovered).
const PinRecovered = "recovered"

// pin is a named set of roots with what they reach.
type pin struct {
	roots   []wire.CID
	blocks  []hash // roots and all UnixFS nodes and leaves below them, as far as known
	partial bool   // a block was missing at some time: blocks may lack what is below it
}

// PinInfo describes one pin.
type PinInfo struct {
	Name    string     `json:"name"`
	Roots   []wire.CID `json:"roots"`
	Blocks  int        `json:"blocks"`
	Bytes   int64      `json:"bytes"`
	Missing int        `json:"missing"` // blocks lost since they were pinned; fetch the roots again
}

// Pin keeps roots, and whatever their UnixFS nodes link to, from collection
// under a name that says why. It replaces an earlier pin of that name, and is
// durable when it returns. Links inside DAG-CBOR blocks are not followed: name
// those blocks as roots too. A block that is not in the store gives ErrNotFound.
func (s *Store) Pin(name string, roots ...wire.CID) error {
	if name == "" || len(name) > 256 {
		return fmt.Errorf("pin name has %d bytes, want 1 to 256", len(name))
	}
	if len(roots) == 0 {
		return fmt.Errorf("pin %q has no roots; to remove it, unpin it", name)
	}
	p := &pin{roots: slices.Clone(roots)}
	var held []hash
	defer func() { s.release(held...) }()
	err := s.walk(context.Background(), roots, func(c wire.CID, h hash) error {
		s.hold(h) // before looking: from here on it cannot be collected
		held = append(held, h)
		if !s.touch(h) {
			return fmt.Errorf("%w: %s", ErrNotFound, c)
		}
		p.blocks = append(p.blocks, h)
		return nil
	})
	if err != nil {
		return fmt.Errorf("pin %q: %w", name, err)
	}
	return s.setPin(name, p)
}

// setPin writes the pin, then counts it; nil removes it.
func (s *Store) setPin(name string, p *pin) error {
	s.pinMu.Lock()
	defer s.pinMu.Unlock()
	var roots []wire.CID
	if p != nil {
		roots = p.roots
	}
	if err := s.db.setPin(name, roots); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replacePinLocked(name, p)
	return nil
}

// Unpin removes a pin. Its blocks stay until collection needs their room. A
// name that is not pinned is not an error.
func (s *Store) Unpin(name string) error { return s.setPin(name, nil) }

func (s *Store) replacePinLocked(name string, p *pin) {
	if p != nil {
		for _, h := range p.blocks {
			s.pinned[h]++
		}
	}
	if old := s.pins[name]; old != nil {
		for _, h := range old.blocks {
			if s.pinned[h]--; s.pinned[h] <= 0 {
				delete(s.pinned, h)
			}
		}
	}
	delete(s.pins, name)
	if p != nil {
		s.pins[name] = p
	}
}

// Pins lists all pins by name.
func (s *Store) Pins() []PinInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]PinInfo, 0, len(s.pins))
	for name, p := range s.pins {
		i := PinInfo{Name: name, Roots: slices.Clone(p.roots), Blocks: len(p.blocks)}
		for _, h := range p.blocks {
			if e, ok := s.index[h]; ok {
				i.Bytes += int64(e.size)
			} else {
				i.Missing++
			}
		}
		infos = append(infos, i)
	}
	slices.SortFunc(infos, func(a, b PinInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

func (s *Store) pinnedBytesLocked() (n int64) {
	for h := range s.pinned {
		n += int64(s.index[h].size)
	}
	return n
}

// pinRecovered pins every block found, as raw roots.
func (s *Store) pinRecovered(found []hash) error {
	p := &pin{}
	for _, h := range found {
		c, err := wire.CIDFromBytes(append([]byte{1, wire.CodecRaw, mhPrefix[0], mhPrefix[1]}, h[:]...))
		if err != nil {
			return err
		}
		p.roots = append(p.roots, c)
	}
	if err := s.db.setPin(PinRecovered, p.roots); err != nil {
		return err
	}
	s.pins[PinRecovered] = p
	return nil
}

// walkPin finds again what a pin reaches.
func (s *Store) walkPin(ctx context.Context, name string, p *pin) {
	fresh := &pin{roots: p.roots}
	err := s.walk(ctx, p.roots, func(c wire.CID, h hash) error {
		fresh.blocks = append(fresh.blocks, h)
		s.mu.Lock()
		_, ok := s.index[h]
		s.mu.Unlock()
		if !ok {
			fresh.partial = true
			return errSkip
		}
		return nil
	})
	if err != nil || fresh.partial {
		s.log.Warn("pin is not complete; fetch its roots again", "pin", name, "err", err)
		fresh.partial = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[name] == p { // not replaced meanwhile
		s.replacePinLocked(name, fresh)
	}
}

// errSkip tells walk not to look below a block.
var errSkip = errors.New("skip")

// walk visits roots and what UnixFS nodes below them link to, parents first,
// each block once.
func (s *Store) walk(ctx context.Context, roots []wire.CID, visit func(wire.CID, hash) error) error {
	type item struct {
		c     wire.CID
		depth int
	}
	var stack []item
	for _, c := range slices.Backward(roots) {
		stack = append(stack, item{c, 0})
	}
	seen := map[wire.CID]bool{}
	for len(stack) > 0 {
		it := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[it.c] {
			continue
		}
		seen[it.c] = true
		h, err := hashOf(it.c)
		if err != nil {
			return err
		}
		if err := visit(it.c, h); errors.Is(err, errSkip) {
			continue
		} else if err != nil {
			return err
		}
		if it.c.Codec() != wire.CodecDagPB {
			continue
		}
		if it.depth > maxDepth {
			return fmt.Errorf("%w: deeper than %d levels", ErrBadDAG, maxDepth)
		}
		data, err := s.Get(ctx, it.c)
		if errors.Is(err, ErrNotFound) { // damaged: it is absent now
			if err := visit(it.c, h); err != nil && !errors.Is(err, errSkip) {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		n, err := decodeNode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", it.c, err)
		}
		for _, l := range slices.Backward(n.links) {
			stack = append(stack, item{l.cid, it.depth + 1})
		}
	}
	return nil
}

// known is what the database should hold.
func (s *Store) known() *meta {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &meta{entries: maps.Clone(s.index), pins: make(map[string][]wire.CID, len(s.pins))}
	for name, p := range s.pins {
		m.pins[name] = p.roots
	}
	return m
}
