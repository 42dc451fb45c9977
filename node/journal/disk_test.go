package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// errCrash is what every operation returns once the machine is down.
var errCrash = errors.New("the machine is down")

// An inode is a file: what a crash leaves for sure, and what the kernel shows.
type inode struct{ durable, current []byte }

// A disk is a file system in memory that knows what an fsync has reached, and fails when
// it is told to. Directory entries are durable after SyncDir only.
type disk struct {
	durable, current map[string]*inode

	ops     int    // operations so far that can fail
	failAt  int    // the operation that fails; 0 is none
	crash   bool   // failing is going down for good
	keep    int    // how many bytes of a failing write reach the file
	down    bool   // after a crash
	failure string // which operation failed
}

func newDisk() *disk {
	return &disk{durable: map[string]*inode{}, current: map[string]*inode{}}
}

// fails counts an operation and returns the error that it is to fail with.
func (d *disk) fails(op, path string, err error) error {
	if d.down {
		return errCrash
	}
	d.ops++
	if d.ops != d.failAt {
		return nil
	}
	d.failure = op + " " + filepath.Base(path)
	if d.crash {
		d.down = true
		return errCrash
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// outcomes returns every disk that a crash now may leave: directory entries with or without what
// was not synced, files with any prefix of what was appended.
func (d *disk) outcomes() []*disk {
	var out []*disk
	for _, names := range []map[string]*inode{d.durable, d.current} {
		longest := 0
		for _, i := range names {
			longest = max(longest, len(i.current)-len(i.durable))
		}
		for n := -1; n <= longest; n++ { // -1: nothing that was not synced
			e := newDisk()
			for name, i := range names {
				b := i.durable
				if n >= 0 && len(i.current) > len(i.durable) {
					b = i.current[:min(len(i.current), len(i.durable)+n)]
				} else if n >= 0 {
					b = i.current
				}
				e.current[name] = &inode{bytes.Clone(b), bytes.Clone(b)}
			}
			e.durable = maps.Clone(e.current)
			out = append(out, e)
		}
	}
	return out
}

func (d *disk) MkdirAll(dir string) error { return d.fails("mkdir", dir, syscall.ENOSPC) }

func (d *disk) Exists(path string) (bool, error) {
	_, ok := d.current[path]
	return ok, d.fails("stat", path, syscall.EIO)
}

func (d *disk) ReadFile(path string, limit int64) ([]byte, error) {
	if err := d.fails("read", path, syscall.EIO); err != nil {
		return nil, err
	}
	i, ok := d.current[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	if int64(len(i.current)) > limit {
		return nil, fmt.Errorf("%s is too long", path)
	}
	return bytes.Clone(i.current), nil
}

func (d *disk) OpenFile(path string, flag int) (file, error) {
	if err := d.fails("open", path, syscall.EMFILE); err != nil {
		return nil, err
	}
	i, ok := d.current[path]
	switch {
	case !ok && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case !ok:
		i = &inode{}
		d.current[path] = i
	case flag&os.O_TRUNC != 0:
		i.current = nil
	}
	return &diskFile{d, i, path}, nil
}

func (d *disk) Rename(from, to string) error {
	if err := d.fails("rename", from, syscall.EIO); err != nil {
		return err
	}
	d.current[to] = d.current[from]
	delete(d.current, from)
	return nil
}

func (d *disk) Remove(path string) error {
	if err := d.fails("remove", path, syscall.EIO); err != nil {
		return err
	}
	if d.current[path] == nil {
		return fs.ErrNotExist
	}
	delete(d.current, path)
	return nil
}

func (d *disk) SyncDir(dir string) error {
	if err := d.fails("fsync", dir, syscall.EIO); err != nil {
		return err
	}
	for name, i := range d.current {
		if filepath.Dir(name) == dir {
			d.durable[name] = i
		}
	}
	maps.DeleteFunc(d.durable, func(name string, _ *inode) bool {
		return filepath.Dir(name) == dir && d.current[name] == nil
	})
	return nil
}

// corrupt returns the names of files kept aside.
func (d *disk) corrupt() (names []string) {
	for name := range d.current {
		if strings.Contains(name, ".corrupt-") {
			names = append(names, name)
		}
	}
	return names
}

type diskFile struct {
	d    *disk
	i    *inode
	path string
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	n := len(p)
	err := f.d.fails("write", f.path, syscall.ENOSPC)
	if err == errCrash && f.d.failure != "write "+filepath.Base(f.path) {
		return 0, err
	}
	if err != nil {
		n = min(n, f.d.keep)
	}
	if grow := int(off) + n - len(f.i.current); grow > 0 {
		f.i.current = append(bytes.Clone(f.i.current), make([]byte, grow)...)
	}
	copy(f.i.current[off:], p[:n])
	return n, err
}

func (f *diskFile) Truncate(size int64) error {
	if err := f.d.fails("truncate", f.path, syscall.EIO); err != nil {
		return err
	}
	f.i.current = bytes.Clone(f.i.current[:size])
	return nil
}

func (f *diskFile) Sync() error {
	if err := f.d.fails("fsync", f.path, syscall.EIO); err != nil {
		return err
	}
	f.i.durable = f.i.current
	return nil
}

func (f *diskFile) Close() error { return f.d.fails("close", f.path, syscall.EIO) }
