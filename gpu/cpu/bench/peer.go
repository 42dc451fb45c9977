package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// A peer measures what it is asked for: seconds of one call by the wall clock and
// of the processor.
type peer interface {
	ask(request string) ([2]float64, error)
}

// A process is a peer that is a program; see peers/peer.h.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

func start(name string, env []string, bin string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(bin, args...)}
	p.cmd.Stderr = os.Stderr
	return p, p.start(env)
}

func (p *process) start(env []string) error {
	p.cmd.Env = append(os.Environ(), env...)
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

func (p *process) ask(request string) (t [2]float64, err error) {
	if _, err = fmt.Fprintln(p.in, request); err == nil {
		var line string
		if line, err = p.out.ReadString('\n'); err == nil {
			_, err = fmt.Sscan(line, &t[0], &t[1])
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %q: %w", p.name, request, err)
	}
	return t, err
}

func (p *process) close() error {
	p.in.Close()
	return p.cmd.Wait()
}

// cpuTime is the processor time of this process.
func cpuTime() float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return float64(t.Sec) + 1e-9*float64(t.Nsec)
}

// timedOnce is the time of one call.
func timedOnce(f func()) [2]float64 {
	wall, cpu := time.Now(), cpuTime()
	f()
	return [2]float64{time.Since(wall).Seconds(), cpuTime() - cpu}
}

// warm is how long a turn goes on before it is measured: threads that wake up on one core need
// some milliseconds to be moved apart.
const warm = 20 * time.Millisecond

// timed is TIMED of peers/peer.h.
func timed(seconds float64, f func()) [2]float64 {
	calls, begun := 0, time.Now()
	for seconds > 0 && time.Since(begun) < warm || calls == 0 {
		f()
		calls++
	}
	batch := 1 + int(1e-3*float64(calls)/time.Since(begun).Seconds())
	n, wall, cpu := 0, time.Now(), cpuTime()
	for {
		for range batch {
			f()
		}
		n += batch
		if used := cpuTime() - cpu; used >= seconds {
			return [2]float64{time.Since(wall).Seconds() / float64(n), used / float64(n)}
		}
	}
}

// settle waits for threads that still spin after the last turn, as OpenMP's do for some
// milliseconds, so that they do not disturb the next.
func settle(threads int) {
	if threads > 1 {
		time.Sleep(50 * time.Millisecond)
	}
}
