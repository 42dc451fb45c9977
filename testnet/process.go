package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A launcher starts processes that end with the testnet, even if it is killed.
//
// The kernel signals a child when the thread that started it ends, so one
// goroutine keeps one thread for all starts.
type launcher struct {
	exe   string
	start chan func()
}

func newLauncher(exe string) *launcher {
	l := &launcher{exe, make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: when the thread ends, so does whoever is left
		for f := range l.start {
			f()
		}
	}()
	return l
}

// close ends the thread. Children that still run are killed, on Linux.
func (l *launcher) close() { close(l.start) }

// A process is one child.
type process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
	err  error         // how; read after done
}

// launch starts the program with its output appended to a file.
func (l *launcher) launch(ctx context.Context, logName string, args ...string) (*process, error) {
	f, err := os.OpenFile(logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(f, "# %s shoal %s\n", time.Now().Format(time.RFC3339), strings.Join(args, " "))
	p := &process{cmd: l.command(args...), log: f, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if err := l.run(ctx, p.cmd); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	go func() {
		p.err = errors.Join(p.cmd.Wait(), f.Close())
		close(p.done)
	}()
	return p, nil
}

func (l *launcher) command(args ...string) *exec.Cmd {
	cmd := exec.Command(l.exe, args...)
	// Keys of a testnet have no passphrase: nobody could type it.
	cmd.Env = append(os.Environ(), "SHOAL_PASSPHRASE=", "SHOAL_DIR=")
	cmd.SysProcAttr = childAttr()
	return cmd
}

// run starts cmd on the launcher's thread.
func (l *launcher) run(ctx context.Context, cmd *exec.Cmd) error {
	started := make(chan error, 1)
	select {
	case l.start <- func() { started <- cmd.Start() }:
		return <-started
	case <-ctx.Done():
		return ctx.Err()
	}
}

// output runs a command to its end and returns what it printed. What it said
// on standard error becomes part of the error, and of the log file.
func (l *launcher) output(ctx context.Context, logName string, args ...string) ([]byte, error) {
	f, err := os.OpenFile(logName, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fmt.Fprintf(f, "# %s shoal %s\n", time.Now().Format(time.RFC3339), strings.Join(args, " "))
	at, err := f.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	cmd := l.command(args...)
	cmd.Stdout, cmd.Stderr = &out, f
	if err := l.run(ctx, cmd); err != nil {
		return nil, fmt.Errorf("shoal %s: %w", args[0], err)
	}
	stop := context.AfterFunc(ctx, func() { signal(cmd, syscall.SIGKILL) })
	err = cmd.Wait()
	stop()
	if err != nil {
		said := make([]byte, 2000)
		n, rerr := f.ReadAt(said, at)
		if n == 0 && rerr != nil {
			said = nil
		}
		return []byte(out.String()), fmt.Errorf("shoal %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, strings.TrimSpace(string(said[:max(0, n)])))
	}
	return []byte(out.String()), nil
}

// signal tells the child; one that has just ended needs no telling.
func signal(cmd *exec.Cmd, s syscall.Signal) {
	if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		fmt.Fprintf(os.Stderr, "shoal: signal process %d: %v\n", cmd.Process.Pid, err)
	}
}

// ended reports whether the process has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process without warning and waits for it.
func (p *process) kill() {
	signal(p.cmd, syscall.SIGKILL)
	<-p.done
}

// leave asks the process to end and waits at most patience; then it is killed
// and leave reports an error.
func (p *process) leave(patience time.Duration) error {
	signal(p.cmd, syscall.SIGTERM)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.done:
		return p.err
	case <-t.C:
		p.kill()
		return fmt.Errorf("did not leave within %s of SIGTERM", patience)
	}
}
