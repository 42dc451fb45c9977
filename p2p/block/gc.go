package block

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// GC removes unpinned blocks, least recently used first, until the store is a
// tenth below its quota; without a quota it removes nothing. It returns the
// bytes freed.
func (s *Store) GC(ctx context.Context) (int64, error) {
	if s.opt.Quota == 0 {
		return 0, nil
	}
	return s.Collect(ctx, s.opt.Quota-s.opt.Quota/10)
}

// Collect removes unpinned blocks, least recently used first, until at most
// target bytes are used or nothing more may go, and returns the bytes freed.
// Blocks that an operation is just writing, pinning or fetching stay, and so
// do those used within Options.Grace.
func (s *Store) Collect(ctx context.Context, target int64) (int64, error) {
	s.gcMu.Lock()
	defer s.gcMu.Unlock()
	s.completePins(ctx)

	type candidate struct {
		h    hash
		used int64
	}
	var cs []candidate
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, ErrClosed
	}
	if s.used > target {
		young := time.Now().Add(-s.opt.Grace).UnixNano()
		for h, e := range s.index {
			if s.freeLocked(h, e, young) {
				cs = append(cs, candidate{h, e.used})
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(cs, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.used, b.used), bytes.Compare(a.h[:], b.h[:]))
	})

	var freed int64
	var removed uint64
	for _, c := range cs {
		if err := ctx.Err(); err != nil {
			return freed, err
		}
		n, done, err := s.collectOne(c.h, target)
		if err != nil {
			return freed, fmt.Errorf("collect in %s: %w", s.dir, err)
		}
		if done {
			break
		}
		if n >= 0 {
			freed += n
			removed++
		}
	}
	if removed > 0 {
		s.mu.Lock()
		s.stats.Collected += removed
		s.mu.Unlock()
		s.log.Debug("blocks collected", "blocks", removed, "bytes", freed, "dir", s.dir)
		s.flushOrWarn()
	}
	return freed, nil
}

// freeLocked reports whether a block may go: used before young, not pinned and
// not held.
func (s *Store) freeLocked(h hash, e entry, young int64) bool {
	return s.pinned[h] == 0 && s.holds[h] == 0 && (s.opt.Grace < 0 || e.used < young)
}

// collectOne removes one block if it still may go. It returns its size, or -1
// if it stays, and whether the target is reached.
func (s *Store) collectOne(h hash, target int64) (freed int64, done bool, err error) {
	l := &s.stripe[h[0]%64]
	l.Lock()
	defer l.Unlock()
	s.mu.Lock()
	if s.used <= target {
		s.mu.Unlock()
		return 0, true, nil
	}
	e, ok := s.index[h]
	if !ok || !s.freeLocked(h, e, time.Now().Add(-s.opt.Grace).UnixNano()) {
		s.mu.Unlock()
		return -1, false, nil
	}
	delete(s.index, h)
	s.dirty[h] = struct{}{}
	s.used -= int64(e.size)
	s.mu.Unlock()
	if err := s.disk.delete(h); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.index[h] = e
		s.used += int64(e.size)
		return -1, false, err
	}
	return int64(e.size), false, nil
}

// completePins walks again the pins below which something was missing: it may
// have been fetched since.
func (s *Store) completePins(ctx context.Context) {
	partial := map[string]*pin{}
	s.mu.Lock()
	for name, p := range s.pins {
		if p.partial {
			partial[name] = p
		}
	}
	s.mu.Unlock()
	for name, p := range partial {
		s.walkPin(ctx, name, p)
	}
}

// reserve makes room for n bytes under the quota and counts them as used until
// the put has ended.
func (s *Store) reserve(ctx context.Context, n int64) error {
	for try := 0; ; try++ {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrClosed
		}
		q := s.opt.Quota
		over := q > 0 && s.used+s.reserved+n > q
		if !over {
			s.reserved += n
		}
		used, reserved, pinned := s.used, s.reserved, int64(0)
		if over && try > 0 {
			pinned = s.pinnedBytesLocked()
		}
		s.mu.Unlock()
		if !over {
			return nil
		}
		if try > 0 {
			return fmt.Errorf("%w: %d of %d bytes used, %d of them pinned, %d needed: raise the quota or unpin something",
				ErrQuota, used, q, pinned, n)
		}
		// Free a tenth at once, so that a full store does not collect at every put.
		if _, err := s.Collect(ctx, max(0, min(q-q/10, q-n-reserved))); err != nil {
			return err
		}
	}
}
