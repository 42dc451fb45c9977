package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// freeDisk is how many bytes may be written below dir, which need not be there yet; 0 where that is
// not known.
func freeDisk(dir string) int64 {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return 0
	}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return max(1, int64(st.Bavail)*int64(st.Bsize))
		}
		if up := filepath.Dir(dir); os.IsNotExist(err) && up != dir {
			dir = up
			continue
		}
		return 0
	}
}

// diskRoom refuses to write n bytes below dir where there are not as many: the work would end in
// the middle.
func diskRoom(what, dir string, n int64) error {
	return diskFits(what, dir, n, freeDisk(dir))
}

func diskFits(what, dir string, n, free int64) error {
	if free > 0 && n > free {
		return advise(fmt.Errorf("%s: %s of disk are needed in %s, %s are free", what, size(n), dir, size(free)), "make room there, or choose another place")
	}
	return nil
}
