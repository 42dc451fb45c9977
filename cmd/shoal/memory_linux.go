package main

import (
	"bufio"
	"bytes"
	"os"
	"path"
	"strconv"
	"strings"
)

// freeMemory is how many bytes this process may still take, 0 where that is not known:
// what the kernel has available, and what the control groups (v2) of the process leave.
func freeMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	free := available(b)
	if b, err = os.ReadFile("/proc/self/cgroup"); err != nil {
		return free
	}
	_, at, ok := strings.Cut(strings.TrimSpace(string(b)), "0::")
	if !ok || strings.Contains(at, "\n") {
		return free
	}
	for ; ; at = path.Dir(at) {
		limit, used := number("/sys/fs/cgroup"+at+"/memory.max"), number("/sys/fs/cgroup"+at+"/memory.current")
		if limit > 0 {
			free = min(free, max(limit-used, 1))
		}
		if at == "/" || at == "." {
			return free
		}
	}
}

// available reads MemAvailable out of /proc/meminfo.
func available(meminfo []byte) int64 {
	for s := bufio.NewScanner(bytes.NewReader(meminfo)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) == 3 && f[0] == "MemAvailable:" && f[2] == "kB" {
			n, _ := strconv.ParseInt(f[1], 10, 64) // 0 where it is none
			return n << 10
		}
	}
	return 0
}

// number reads a file that holds one; 0 is none ("max").
func number(name string) int64 {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}
