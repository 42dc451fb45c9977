package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

// What the machine refuses comes with what to do about it, whoever met it.
func TestReportSaysWhatToDo(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{syscall.ENOSPC: "make room", syscall.EMFILE: "ulimit -n"} {
		var out bytes.Buffer
		(&app{err: &out}).report(fmt.Errorf("lock: %w", &fs.PathError{Op: "write", Path: "/d/LOCK", Err: errno}))
		if s := out.String(); !strings.Contains(s, "/d/LOCK") || !strings.Contains(s, "next: ") || !strings.Contains(s, want) {
			t.Errorf("%v: %q", errno, s)
		}
	}
}
