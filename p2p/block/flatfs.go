package block

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	flatfs "github.com/ipfs/go-ds-flatfs"
)

// shards is flatfs's usual sharding function: directories by the two
// characters before the last.
var shards = flatfs.NextToLast(2)

// mhPrefix is the head of a sha2-256 multihash; file names are the base32 of
// the whole multihash, as in any IPFS repository.
var mhPrefix = string([]byte{0x12, 0x20})

var b32 = base32.StdEncoding.WithPadding(base32.NoPadding)

// flatfsBackend keeps blocks in one file each.
type flatfsBackend struct{ ds *flatfs.Datastore }

// openFlatfs opens or creates the directory. If only its SHARDING file was
// lost or damaged (a crash while creating, a careless copy), it is written again.
func openFlatfs(path string, sync bool) (*flatfsBackend, error) {
	_, err := flatfs.ReadShardFunc(path)
	var pathErr *fs.PathError
	if err != nil && !errors.As(err, &pathErr) {
		if names, readErr := os.ReadDir(path); readErr == nil && len(names) > 0 {
			if err := os.Remove(filepath.Join(path, flatfs.SHARDING_FN)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("repair %s: %w", path, err)
			}
			if err := flatfs.WriteShardFunc(path, shards); err != nil {
				return nil, fmt.Errorf("repair %s: %w", path, err)
			}
		}
	}
	ds, err := flatfs.CreateOrOpen(path, shards, sync)
	if err != nil {
		return nil, fmt.Errorf("open blocks in %s: %w", path, err)
	}
	return &flatfsBackend{ds}, nil
}

func fileKey(h hash) datastore.Key {
	return datastore.RawKey("/" + b32.EncodeToString([]byte(mhPrefix+string(h[:]))))
}

func parseFileKey(k string) (hash, bool) {
	b, err := b32.DecodeString(strings.TrimPrefix(k, "/"))
	if err != nil || len(b) != 2+len(hash{}) || string(b[:2]) != mhPrefix {
		return hash{}, false
	}
	return hash(b[2:]), true
}

func (f *flatfsBackend) put(h hash, data []byte) error {
	return f.ds.Put(context.Background(), fileKey(h), data)
}

func (f *flatfsBackend) get(h hash) ([]byte, error) {
	// Do not read a file that cannot be a block: its size alone condemns it.
	if n, err := f.size(h); err != nil {
		return nil, err
	} else if n > MaxBlock {
		return nil, nil
	}
	b, err := f.ds.Get(context.Background(), fileKey(h))
	return b, absent(err)
}

func (f *flatfsBackend) size(h hash) (int64, error) {
	n, err := f.ds.GetSize(context.Background(), fileKey(h))
	return int64(n), absent(err)
}

func (f *flatfsBackend) delete(h hash) error {
	return f.ds.Delete(context.Background(), fileKey(h))
}

func (f *flatfsBackend) list(ctx context.Context, each func(hash)) error {
	res, err := f.ds.Query(ctx, query.Query{KeysOnly: true})
	if err != nil {
		return err
	}
	defer res.Close()
	for r := range res.Next() {
		if r.Error != nil {
			return r.Error
		}
		if h, ok := parseFileKey(r.Key); ok {
			each(h)
		}
	}
	return ctx.Err()
}

func (f *flatfsBackend) close() error { return f.ds.Close() }

// absent turns the datastore's "not found" into the file system's.
func absent(err error) error {
	if errors.Is(err, datastore.ErrNotFound) {
		return fs.ErrNotExist
	}
	return err
}
