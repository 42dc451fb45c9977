package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/shoalnet/shoal/node"
)

// A draft is a file or directory in the making. It has a name of its own, so that nobody takes
// it for the whole, and a lock, so that what a dead process left is told from what is being written.
type draft struct {
	f  *os.File // whose lock it is
	to string   // what it is to become
}

// draftPrefix is what the names of name's drafts begin with, in one folder with it; digits follow.
func draftPrefix(name string) string {
	base := filepath.Base(name)
	return "." + strings.ToValidUTF8(base[:min(len(base), 200)], "") + ".shoal-"
}

// newDraft makes a draft of to in dir: a directory, or an empty file.
func newDraft(dir, to string, directory bool) (*draft, error) {
	for range 10 {
		f, err := createDraft(dir, draftPrefix(to)+"*", directory)
		if err != nil {
			return nil, err
		}
		// A file system without locks makes no difference here: nobody is told a draft from another's there.
		_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		mine, err := f.Stat()
		if now, serr := os.Lstat(f.Name()); err == nil && serr == nil && os.SameFile(mine, now) {
			return &draft{f, to}, nil
		}
		f.Close() // another process took it for a dead one's, before it was locked
	}
	return nil, fmt.Errorf("write %s: others remove what is written in %s", to, dir)
}

func createDraft(dir, pattern string, directory bool) (*os.File, error) {
	if !directory {
		return os.CreateTemp(dir, pattern)
	}
	name, err := os.MkdirTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.Join(err, os.Remove(name))
	}
	return f, nil
}

// discard ends a draft: what did not become whole is removed.
func (d *draft) discard() error {
	return errors.Join(os.RemoveAll(d.f.Name()), d.f.Close())
}

// abandoned removes from dir the drafts of to whose processes are dead, and says whether one
// is being written. What cannot be removed is left: it is in nobody's way.
func abandoned(dir, to string) (live bool, err error) {
	all, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrPermission) { // one may write where one may not read
		return false, nil
	} else if err != nil {
		return false, err
	}
	for _, x := range all {
		digits, ok := strings.CutPrefix(x.Name(), draftPrefix(to))
		if !ok || digits == "" || strings.Trim(digits, "0123456789") != "" || !x.IsDir() && !x.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, x.Name())
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			_ = os.RemoveAll(name)
		case errors.Is(err, unix.EWOULDBLOCK):
			live = true
		}
		f.Close()
	}
	return live, nil
}

// writeFile replaces name as a whole: readers see the old bytes or the new.
func writeFile(name string, data []byte, mode os.FileMode) error {
	return writeFileBy(name, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// writeFileBy is writeFile of what write writes.
func writeFileBy(name string, mode os.FileMode, write func(io.Writer) error) (err error) {
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() { // a rename would replace a device
		return fmt.Errorf("write %s: it is not a regular file", name)
	}
	dir := filepath.Dir(name)
	var d *draft
	if _, err = abandoned(dir, name); err == nil {
		d, err = newDraft(dir, name, false)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, d.discard()) }()
	if err := errors.Join(write(d.f), d.f.Chmod(mode), d.f.Sync()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(d.f.Name(), name)
}

// newDir makes the draft of a model's directory, which must be empty or not be there, before the
// work whose result it takes: what cannot be written is told then, and whoever else would write there.
// The draft of a directory that is there lies within: it may be a file system of its own.
func newDir(dir string) (d *draft, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	in := dir
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		in = filepath.Dir(dir)
		if err := os.MkdirAll(in, 0o755); err != nil {
			return nil, err
		}
	}
	live, err := abandoned(in, dir)
	if err == nil && live {
		err = advise(fmt.Errorf("%s: another process is writing it", dir), "choose a new directory")
	}
	if err == nil {
		err = emptyDir(dir)
	}
	if err != nil {
		return nil, err
	}
	return newDraft(in, dir, true)
}

// place makes the draft of a directory what it is to become, of the files: whole or not at all,
// where the directory is not there yet; else config.json, without which nothing is a model, comes last.
func (d *draft) place(files map[string]io.Reader) error {
	tmp := d.f.Name()
	names := make([]string, 0, len(files))
	for name, r := range files {
		if err := writeFileBy(filepath.Join(tmp, name), 0o644, func(w io.Writer) error {
			_, err := io.Copy(w, r)
			return err
		}); err != nil {
			return err
		}
		names = append(names, name)
	}
	if filepath.Dir(tmp) != d.to {
		if err := errors.Join(d.f.Chmod(0o755), unix.Rename(tmp, d.to)); err != nil { // os.Rename refuses an empty one
			return fmt.Errorf("rename %s to %s: %w", tmp, d.to, err)
		}
		return nil
	}
	slices.SortFunc(names, func(a, b string) int { return btoi(a == node.ConfigFile) - btoi(b == node.ConfigFile) })
	for _, name := range names {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(d.to, name)); err != nil {
			return err
		}
	}
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
