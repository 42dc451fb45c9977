package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// tempSuffix marks a file that is being written and means nothing yet.
const tempSuffix = ".tmp"

// fsys is what the journal asks of a file system; tests make it fail.
type fsys interface {
	MkdirAll(dir string) error
	Exists(path string) (bool, error)
	// ReadFile reads the whole file; one longer than limit is an error.
	ReadFile(path string, limit int64) ([]byte, error)
	OpenFile(path string, flag int) (file, error)
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(dir string) error
}

type file interface {
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// WriteFile puts data at path, atomically and durably: when it returns nil the file is on
// disk; after a crash or an error, path holds either what it held before or all of
// data. One goroutine at a time writes to a path.
func WriteFile(path string, data []byte) error { return writeFile(osFS{}, path, data) }

func writeFile(fsy fsys, path string, data []byte) error {
	f, err := writeTemp(fsy, path, data)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, fsy.Remove(path+tempSuffix)))
	}
	if err := fsy.Rename(path+tempSuffix, path); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, fsy.Remove(path+tempSuffix)))
	}
	if err := fsy.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: fsync of its directory: %w", path, err)
	}
	return nil
}

// writeTemp writes data durably to path's temporary file and returns it open. On an error
// it leaves none behind.
func writeTemp(fsy fsys, path string, data []byte) (file, error) {
	temp := path + tempSuffix
	f, err := fsy.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), fsy.Remove(temp))
	}
	return f, nil
}

// osFS is the real file system. What it makes is readable by the user only.
type osFS struct{}

func (osFS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (osFS) Exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (osFS) ReadFile(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, over the limit of %d", path, st.Size(), limit)
	}
	return os.ReadFile(path)
}

func (osFS) OpenFile(path string, flag int) (file, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(path string) error { return os.Remove(path) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
