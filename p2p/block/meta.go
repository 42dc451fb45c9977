package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/shoalnet/shoal/p2p/wire"
)

// The database has three buckets:
//
//	about   "version" → 1 (1 byte)
//	blocks  32-byte sha2-256 → size (4 bytes) ‖ last use (8 bytes), big-endian
//	pins    name → CRC-32C (4 bytes) ‖ (length (1 byte) ‖ CID)*
//
// bbolt checks only its meta pages, hence the sum over each pin.
var (
	bucketAbout  = []byte("about")
	bucketBlocks = []byte("blocks")
	bucketPins   = []byte("pins")
	keyVersion   = []byte("version")
)

const metaVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged marks a database that must be rebuilt from the blocks.
var errDamaged = errors.New("database is damaged")

type metaDB struct {
	path   string
	noSync bool
	log    *slog.Logger
	// known returns what the database should hold. Until it is set a damaged database stays so.
	known func() *meta

	mu sync.Mutex // one transaction at a time
	db *bolt.DB
}

// meta is the content of a database.
type meta struct {
	entries map[hash]entry
	pins    map[string][]wire.CID
	fresh   bool // the file is new: the old one was damaged, lost, or never there
}

// openMeta opens the database and reads all of it. A damaged file is renamed
// and replaced by an empty one.
func openMeta(path string, noSync bool, log *slog.Logger) (*metaDB, *meta, error) {
	d, m, err := tryMeta(path, noSync, log)
	if !errors.Is(err, errDamaged) {
		return d, m, err
	}
	aside, asideErr := putAside(path)
	if asideErr != nil {
		return nil, nil, fmt.Errorf("%s: %w, and cannot be put aside: %w", path, err, asideErr)
	}
	log.Error("block database was damaged; rebuilding it from the blocks", "file", path, "kept_as", aside, "err", err)
	return tryMeta(path, noSync, log)
}

func putAside(path string) (string, error) {
	for i := 1; i < 1000; i++ {
		aside := fmt.Sprintf("%s.damaged-%d", path, i)
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			return aside, os.Rename(path, aside)
		}
	}
	return "", errors.New("there are 1,000 damaged files already; remove some")
}

// tryMeta opens and reads the database. bbolt trusts its pages, so a damaged
// file makes it panic or fault on mapped memory; both become errDamaged here.
func tryMeta(path string, noSync bool, log *slog.Logger) (d *metaDB, m *meta, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var db *bolt.DB
	defer func() {
		if r := recover(); r != nil {
			d, m, err = nil, nil, fmt.Errorf("%w: %v", errDamaged, r)
		}
		if err != nil && db != nil {
			closeDamaged(db)
		}
	}()
	if err := checkLength(path); err != nil {
		return nil, nil, err
	}
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout:      time.Second,
		FreelistType: bolt.FreelistMapType,
		NoSync:       noSync,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, nil, fmt.Errorf("%w (%s is locked): stop the other one or use another data directory", ErrInUse, path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, nil, fmt.Errorf("%w: %w", errDamaged, err)
	case err != nil:
		return nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	m = &meta{entries: map[hash]entry{}, pins: map[string][]wire.CID{}}
	err = db.View(m.read) // writes nothing: the disk may be full
	if err == nil && m.fresh {
		err = db.Update(create)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, diskError(err))
	}
	return &metaDB{path: path, noSync: noSync, log: log, db: db}, m, nil
}

// closeDamaged closes db as well as it can, so that the lock is given back.
func closeDamaged(db *bolt.DB) {
	defer func() { _ = recover() }() // closing a damaged file may panic again; it is about to be renamed
	_ = db.Close()
}

// checkLength refuses a file that is cut in the middle of a page: mapping it
// would fault.
func checkLength(path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if n := fi.Size(); n > 0 && n < 4*1024 {
		return fmt.Errorf("%w: it has only %d bytes", errDamaged, n)
	}
	return nil
}

// create makes the buckets of a new file.
func create(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketBlocks, bucketPins, bucketAbout} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketAbout).Put(keyVersion, []byte{metaVersion})
}

// read fills m from the buckets; without them the file is fresh.
func (m *meta) read(tx *bolt.Tx) error {
	about, blocks, pins := tx.Bucket(bucketAbout), tx.Bucket(bucketBlocks), tx.Bucket(bucketPins)
	if about == nil && blocks == nil && pins == nil {
		m.fresh = true
		return nil
	}
	if about == nil || blocks == nil || pins == nil {
		return fmt.Errorf("%w: a bucket is missing", errDamaged)
	}
	v := about.Get(keyVersion)
	if len(v) != 1 {
		return fmt.Errorf("%w: its version is not one byte", errDamaged)
	}
	if v[0] > metaVersion {
		return fmt.Errorf("its format has version %d, this program knows %d: use a newer one", v[0], metaVersion)
	}
	err := blocks.ForEach(func(k, v []byte) error {
		if len(k) != len(hash{}) || len(v) != 12 {
			return fmt.Errorf("%w: block record of %d and %d bytes", errDamaged, len(k), len(v))
		}
		e := entry{binary.BigEndian.Uint32(v), int64(binary.BigEndian.Uint64(v[4:]))}
		if e.size > MaxBlock {
			return fmt.Errorf("%w: block record with size %d", errDamaged, e.size)
		}
		m.entries[hash(k)] = e
		return nil
	})
	if err != nil {
		return err
	}
	return pins.ForEach(func(k, v []byte) error {
		roots, err := decodePin(v)
		if err != nil {
			return fmt.Errorf("%w: pin %q: %w", errDamaged, k, err)
		}
		m.pins[string(k)] = roots
		return nil
	})
}

// encodePin is a checked list of CIDs.
func encodePin(roots []wire.CID) []byte {
	b := make([]byte, 4, 4+40*len(roots))
	for _, c := range roots {
		b = append(append(b, byte(len(c))), c...)
	}
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

func decodePin(b []byte) ([]wire.CID, error) {
	if len(b) < 4 || crc32.Checksum(b[4:], castagnoli) != binary.BigEndian.Uint32(b) {
		return nil, errors.New("checksum does not match")
	}
	var roots []wire.CID
	for b = b[4:]; len(b) > 0; {
		n := int(b[0])
		if len(b) < 1+n {
			return nil, errors.New("cut in the middle of a CID")
		}
		c, err := wire.CIDFromBytes(b[1 : 1+n])
		if err != nil {
			return nil, err
		}
		roots = append(roots, c)
		b = b[1+n:]
	}
	return roots, nil
}

// change runs one transaction. Where the file has gone bad under us it is put aside, and
// another one made of what is known: what is lost at a restart is not lost now.
func (d *metaDB) change(f func(*bolt.Tx) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.transact(f)
	if !errors.Is(err, errDamaged) {
		return err
	}
	if d.known == nil {
		return fmt.Errorf("%w; restart to rebuild it", err)
	}
	if bad := d.remake(err); bad != nil {
		return fmt.Errorf("%w; make room or see to the disk, then restart to rebuild it: %w", err, bad)
	}
	return d.transact(f)
}

// transact turns what bbolt makes of a damaged file into an error.
func (d *metaDB) transact(f func(*bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return d.db.Update(f)
}

// remake replaces the damaged database. The old one is not closed, since that may wait
// for ever after a panic within it; it holds a file and its mapping until the process ends.
func (d *metaDB) remake(why error) error {
	aside, err := putAside(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone: an earlier attempt came so far
		return err
	}
	d.log.Error("block database is damaged; it is made anew", "file", d.path, "kept_as", aside, "err", why)
	fresh, _, err := tryMeta(d.path, d.noSync, d.log)
	if err != nil {
		return err
	}
	m := d.known()
	err = fresh.transact(func(tx *bolt.Tx) error {
		for h, e := range m.entries {
			if err := tx.Bucket(bucketBlocks).Put(h[:], encodeEntry(e)); err != nil {
				return err
			}
		}
		for name, roots := range m.pins {
			if err := tx.Bucket(bucketPins).Put([]byte(name), encodePin(roots)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, fresh.close(), os.Remove(d.path))
	}
	d.db = fresh.db
	return nil
}

func encodeEntry(e entry) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, e.size), uint64(e.used))
}

// update writes and deletes block records in one transaction.
func (d *metaDB) update(set map[hash]entry, gone []hash) error {
	err := d.change(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketBlocks)
		for h, e := range set {
			if err := b.Put(h[:], encodeEntry(e)); err != nil {
				return err
			}
		}
		for _, h := range gone {
			if err := b.Delete(h[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write block metadata: %w", diskError(err))
	}
	return nil
}

// setPin durably sets or, without roots, removes a pin.
func (d *metaDB) setPin(name string, roots []wire.CID) error {
	err := d.change(func(tx *bolt.Tx) error {
		if len(roots) == 0 {
			return tx.Bucket(bucketPins).Delete([]byte(name))
		}
		return tx.Bucket(bucketPins).Put([]byte(name), encodePin(roots))
	})
	if err != nil {
		return fmt.Errorf("write pin %q: %w", name, diskError(err))
	}
	return nil
}

func (d *metaDB) close() error { return d.db.Close() }
