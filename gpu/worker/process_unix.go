//go:build unix

package worker

import (
	"os/exec"
	"syscall"
)

// detach keeps the terminal's Ctrl-C from the worker: the node leaves first,
// and still needs it.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
