package testnet

import "syscall"

// childAttr makes a child that no terminal interrupts and that does not
// outlive the testnet.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
