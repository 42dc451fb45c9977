package block

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// MaxBlock is the largest block that a store takes, in bytes: what every IPFS
// implementation is required to accept. Bigger things are files (PutFile).
const MaxBlock = 2 << 20

// Errors to branch on. What is returned wraps them and says what to do.
var (
	ErrNotFound = errors.New("block is not in the store")
	ErrQuota    = errors.New("block store is full")
	ErrDiskFull = errors.New("disk is full")
	ErrTooLarge = errors.New("over the size limit")
	ErrBadDAG   = errors.New("not a valid UnixFS DAG")
	ErrInUse    = errors.New("block store is in use by another process")
	ErrClosed   = errors.New("block store is closed")
)

// Options of a Store. The zero value is usable.
type Options struct {
	// Quota bounds the bytes of all blocks, pinned or not; 0 means no bound.
	// When a new block would exceed it, unpinned blocks go, least recently
	// used first; if that is not enough, the block is refused with ErrQuota.
	Quota int64

	// Grace is how long a block that was just put, fetched or read is safe
	// from collection although nothing pins it yet. Default 1 minute;
	// negative means none.
	Grace time.Duration

	// NoSync leaves out the fsync after each block. A crash of the machine
	// (not of the process) may then lose or truncate recent blocks, which the
	// hash check finds. For tests and throw-away nodes.
	NoSync bool

	// Log receives corruption, repair and collection events. Default slog.Default().
	Log *slog.Logger

	wrap func(backend) backend // fault injection in tests
}

// A hash is the sha2-256 of a block: its key on disk. Two CIDs of one content
// under different codecs share one file.
type hash [sha256.Size]byte

// hashOf returns c's digest; c must be a CIDv1 with sha2-256.
func hashOf(c wire.CID) (hash, error) {
	if _, err := wire.CIDFromBytes([]byte(c)); err != nil {
		return hash{}, err
	}
	return hash([]byte(c[len(c)-sha256.Size:])), nil
}

// A backend holds the blocks' bytes. flatfsBackend is the real one.
type backend interface {
	put(h hash, data []byte) error
	get(h hash) ([]byte, error) // fs.ErrNotExist if absent
	size(h hash) (int64, error)
	delete(h hash) error
	list(ctx context.Context, f func(hash)) error
	close() error
}

// entry is what is known of a stored block without opening it.
type entry struct {
	size uint32
	used int64 // last put or get, Unix nanoseconds
}

// A Store keeps blocks on disk. It is safe for concurrent use.
type Store struct {
	opt  Options
	dir  string
	log  *slog.Logger
	disk backend
	db   *metaDB

	stripe [64]sync.Mutex // by first byte of the hash: serializes writing and deleting of one file; before mu
	gcMu   sync.Mutex     // one collection at a time; before stripe
	pinMu  sync.Mutex     // one change of pins at a time; before mu

	mu       sync.Mutex // guards following
	closed   bool
	index    map[hash]entry
	dirty    map[hash]struct{} // entries that differ from the database
	used     int64             // sum of sizes in index
	reserved int64             // bytes of puts under way
	holds    map[hash]int      // operations under way that need the block
	pins     map[string]*pin
	pinned   map[hash]int // number of pins that hold the block
	stats    Stats
	onPut    func(wire.CID, []byte) // set by the Exchange: announce to those who wait
}

// Stats counts what happened since Open.
type Stats struct {
	Corrupt   uint64 `json:"corrupt"`   // blocks removed because their bytes did not match their CID
	Collected uint64 `json:"collected"` // blocks removed to keep the quota
	Recovered bool   `json:"recovered"` // the database was damaged and made anew
}

// Usage says how full the store is, in bytes and blocks.
type Usage struct {
	Blocks int   `json:"blocks"`
	Bytes  int64 `json:"bytes"`
	Pinned int64 `json:"pinned"` // bytes that pins hold
	Quota  int64 `json:"quota"`  // 0: none
}

// Open opens or creates the store in dir. A database that cannot be read is
// put aside as meta.db.damaged-N and rebuilt from the blocks. The caller
// closes the store.
func Open(dir string, opt Options) (*Store, error) {
	if opt.Quota < 0 {
		return nil, fmt.Errorf("block store: quota %d is negative", opt.Quota)
	}
	if opt.Grace == 0 {
		opt.Grace = time.Minute
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("block store: %w", err)
	}
	s := &Store{
		opt: opt, dir: dir, log: opt.Log,
		index: map[hash]entry{}, dirty: map[hash]struct{}{}, holds: map[hash]int{},
		pins: map[string]*pin{}, pinned: map[hash]int{},
	}
	db, meta, err := openMeta(filepath.Join(dir, "meta.db"), opt.NoSync, opt.Log)
	if err != nil {
		return nil, fmt.Errorf("block store %s: %w", dir, err)
	}
	s.db = db
	disk, err := openFlatfs(filepath.Join(dir, "blocks"), !opt.NoSync)
	if err != nil {
		db.close()
		return nil, fmt.Errorf("block store %s: %w", dir, err)
	}
	s.disk = disk
	if opt.wrap != nil {
		s.disk = opt.wrap(disk)
	}
	if err := s.load(context.Background(), meta); err != nil {
		s.disk.close()
		db.close()
		return nil, fmt.Errorf("block store %s: %w", dir, err)
	}
	return s, nil
}

// load reconciles the database's entries with the files and walks the pins.
func (s *Store) load(ctx context.Context, m *meta) error {
	now := time.Now().UnixNano()
	var found []hash
	err := s.disk.list(ctx, func(h hash) { found = append(found, h) })
	if err != nil {
		return fmt.Errorf("list blocks: %w", err)
	}
	for _, h := range found {
		e, ok := m.entries[h]
		if !ok {
			n, err := s.disk.size(h)
			if err != nil || n > MaxBlock {
				s.log.Warn("block file ignored", "hash", fmt.Sprintf("%x", h[:6]), "bytes", n, "err", err)
				continue
			}
			e = entry{uint32(n), now}
			s.dirty[h] = struct{}{}
		}
		delete(m.entries, h)
		s.index[h] = e
		s.used += int64(e.size)
	}
	for h := range m.entries { // in the database, but the file is gone
		s.dirty[h] = struct{}{}
	}
	for name, roots := range m.pins {
		s.pins[name] = &pin{roots: roots}
	}
	if m.fresh && len(found) > 0 { // pins were lost
		s.stats.Recovered = true
		s.log.Error("block database made anew; all blocks found stay until they are unpinned", "pin", PinRecovered, "blocks", len(found), "dir", s.dir)
		if err := s.pinRecovered(found); err != nil {
			return err
		}
	}
	for name, p := range s.pins {
		s.walkPin(ctx, name, p)
	}
	s.db.known = s.known
	s.flushOrWarn()
	return nil
}

// Close flushes the metadata and closes the files.
func (s *Store) Close() error {
	s.gcMu.Lock()
	defer s.gcMu.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.flushOrWarn()
	return errors.Join(s.disk.close(), s.db.close())
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Usage returns how full the store is.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Usage{Blocks: len(s.index), Bytes: s.used, Pinned: s.pinnedBytesLocked(), Quota: s.opt.Quota}
}

// Put stores one block of at most MaxBlock bytes under a codec (wire.CodecRaw,
// CodecDagPB or CodecDagCBOR) and returns its CID. A block that is there
// already is only touched. Errors: ErrTooLarge, ErrQuota, ErrDiskFull.
func (s *Store) Put(ctx context.Context, codec uint64, data []byte) (wire.CID, error) {
	c := wire.SumCID(codec, data)
	if err := s.putVerified(ctx, c, data); err != nil {
		return "", err
	}
	return c, nil
}

// PutCID stores a block that came from elsewhere after checking that c names it.
func (s *Store) PutCID(ctx context.Context, c wire.CID, data []byte) error {
	h, err := hashOf(c)
	if err != nil {
		return err
	}
	if sha256.Sum256(data) != h {
		return fmt.Errorf("block %s: %d bytes do not match the CID", c, len(data))
	}
	return s.putVerified(ctx, c, data)
}

// putVerified stores data, which is known to be what c names.
func (s *Store) putVerified(ctx context.Context, c wire.CID, data []byte) error {
	h, err := hashOf(c)
	if err != nil {
		return err
	}
	if len(data) > MaxBlock {
		return fmt.Errorf("block of %d bytes: %w of %d for one block (store it as a file)", len(data), ErrTooLarge, MaxBlock)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.hold(h)
	defer s.release(h)
	if s.touch(h) {
		return nil
	}
	if err := s.reserve(ctx, int64(len(data))); err != nil {
		return fmt.Errorf("put block %s: %w", c.Short(), err)
	}
	err = s.write(h, data)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		// Give back what nobody needs, then try once more.
		if freed, gcErr := s.Collect(ctx, max(0, s.Usage().Bytes-4*MaxBlock)); gcErr == nil && freed > 0 {
			err = s.write(h, data)
		}
	}
	s.mu.Lock()
	s.reserved -= int64(len(data))
	onPut := s.onPut
	flush := len(s.dirty) >= 4096
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("put block %s (%d bytes) in %s: %w", c.Short(), len(data), s.dir, diskError(err))
	}
	if onPut != nil {
		onPut(c, data)
	}
	if flush {
		s.flushOrWarn()
	}
	return nil
}

// write puts the file in place and enters it in the index.
func (s *Store) write(h hash, data []byte) error {
	l := &s.stripe[h[0]%64]
	l.Lock()
	defer l.Unlock()
	if s.touch(h) { // another put of the same block was faster
		return nil
	}
	if err := s.disk.put(h, data); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index[h] = entry{uint32(len(data)), time.Now().UnixNano()}
	s.dirty[h] = struct{}{}
	s.used += int64(len(data))
	return nil
}

// diskError names what to do about a full disk.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w; free some space or lower the quota, what is stored is intact", ErrDiskFull, err)
	}
	return err
}

// Has reports whether the block is in the store.
func (s *Store) Has(c wire.CID) bool {
	h, err := hashOf(c)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.index[h]
	return ok && !s.closed
}

// Size returns the size of a stored block in bytes, or ErrNotFound.
func (s *Store) Size(c wire.CID) (int, error) {
	h, err := hashOf(c)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.index[h]; ok {
		return int(e.size), nil
	}
	return 0, fmt.Errorf("%w: %s", ErrNotFound, c)
}

// Get returns the block's bytes after checking them against c. A block that is
// absent, or whose file is damaged (it is then removed), gives ErrNotFound.
func (s *Store) Get(ctx context.Context, c wire.CID) ([]byte, error) {
	h, err := hashOf(c)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if !s.touch(h) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	}
	data, err := s.disk.get(h)
	if err == nil && sha256.Sum256(data) == h {
		return data, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read block %s in %s: %w", c, s.dir, err)
	}
	return nil, s.discard(c, h)
}

// discard removes a block whose file is missing or damaged.
func (s *Store) discard(c wire.CID, h hash) error {
	l := &s.stripe[h[0]%64]
	l.Lock()
	defer l.Unlock()
	if data, err := s.disk.get(h); err == nil && sha256.Sum256(data) == h {
		return fmt.Errorf("%w: %s was being replaced, try again", ErrNotFound, c)
	}
	s.mu.Lock()
	if e, ok := s.index[h]; ok {
		delete(s.index, h)
		s.dirty[h] = struct{}{}
		s.used -= int64(e.size)
		s.stats.Corrupt++
	}
	if s.pinned[h] > 0 {
		for _, p := range s.pins {
			p.partial = p.partial || slices.Contains(p.blocks, h)
		}
	}
	s.mu.Unlock()
	s.log.Warn("damaged block removed; it will be fetched anew when needed", "cid", c.String(), "dir", s.dir)
	if err := s.disk.delete(h); err != nil {
		s.log.Warn("damaged block's file not removed", "cid", c.String(), "err", err)
	}
	return fmt.Errorf("%w: %s was damaged on disk and has been removed", ErrNotFound, c)
}

// touch marks the block as used now and reports whether it is there.
func (s *Store) touch(h hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.index[h]
	if !ok {
		return false
	}
	e.used = time.Now().UnixNano()
	s.index[h] = e
	s.dirty[h] = struct{}{}
	return true
}

// hold keeps a block, present or not yet, from collection until release.
func (s *Store) hold(h hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[h]++
}

func (s *Store) release(hs ...hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range hs {
		if s.holds[h]--; s.holds[h] <= 0 {
			delete(s.holds, h)
		}
	}
}

// flushOrWarn flushes where a failure loses nothing: sizes are found in the
// files again, and the next flush tries again.
func (s *Store) flushOrWarn() {
	if err := s.flush(); err != nil {
		s.log.Warn("block metadata not written", "dir", s.dir, "err", err)
	}
}

// flush writes changed entries to the database.
func (s *Store) flush() error {
	s.mu.Lock()
	set, gone := map[hash]entry{}, []hash{}
	for h := range s.dirty {
		if e, ok := s.index[h]; ok {
			set[h] = e
		} else {
			gone = append(gone, h)
		}
	}
	s.dirty = map[hash]struct{}{}
	s.mu.Unlock()
	if len(set)+len(gone) == 0 {
		return nil
	}
	err := s.db.update(set, gone)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for h := range set {
			s.dirty[h] = struct{}{}
		}
		for _, h := range gone {
			s.dirty[h] = struct{}{}
		}
	}
	return err
}

// setOnPut sets what is told of each new block.
func (s *Store) setOnPut(f func(wire.CID, []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onPut = f
}
