//go:build !linux

package testnet

import "syscall"

// childAttr leaves the child in the terminal's group: without Linux's parent
// death signal, an interrupt is the best that it can be told.
func childAttr() *syscall.SysProcAttr { return nil }
