package cpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// huge asks for large pages behind n bytes at p that nobody has touched yet, and behind what else
// lies in the first and the last of them: large allocations follow one another. That the kernel
// may refuse costs speed only.
func huge(p unsafe.Pointer, n int) {
	const page = 2 << 20
	if n < page/2 {
		return
	}
	skip := int(uintptr(p) % page)
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(p)-uintptr(skip), uintptr((n+skip+page-1)/page*page), unix.MADV_HUGEPAGE)
}
