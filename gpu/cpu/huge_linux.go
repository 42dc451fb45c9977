package cpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// huge asks for large pages behind n bytes at p that nobody has touched yet.
// That the kernel may refuse costs speed only.
func huge(p unsafe.Pointer, n int) {
	const page = 2 << 20
	skip := int(-uintptr(p) % page)
	if n = (n - skip) / page * page; n > 0 {
		_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(p, skip)), n), unix.MADV_HUGEPAGE)
	}
}
