package testnet

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// network serves the lines of n echoing peers until the test ends.
func network(t *testing.T, n int, l Link) *lines {
	t.Helper()
	s, err := newLines(n, l)
	if err != nil {
		t.Skipf("no loopback addresses to give away: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	for _, a := range s.addrs {
		ln, err := net.Listen("tcp", a.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { // the test sees what does not come back
					_, _ = io.Copy(c, c)
					c.Close()
				}()
			}
		}()
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// call connects peer i to peer j as libp2p does: from the address it listens on.
func call(t *testing.T, s *lines, i, j int) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: hostOf(i).AsSlice()}}
	c, err := d.DialContext(t.Context(), "tcp", s.front[j].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echo sends b and returns how long it took to come back.
func echo(c net.Conn, b []byte, limit time.Duration) (time.Duration, error) {
	start := time.Now()
	if err := c.SetDeadline(start.Add(limit)); err != nil {
		return 0, err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		sent <- err
	}()
	got := make([]byte, len(b))
	_, err := io.ReadFull(c, got)
	if err == nil && !bytes.Equal(got, b) {
		err = io.ErrUnexpectedEOF
	}
	if werr := <-sent; err == nil {
		err = werr
	}
	return time.Since(start), err
}

func TestLinesCarryAndDelay(t *testing.T) {
	s := network(t, 3, Link{})
	big := bytes.Repeat([]byte("shoal"), 200_000)
	if _, err := echo(call(t, s, 0, 1), big, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	s.limit(0, Link{Delay: 40 * time.Millisecond})
	s.limit(1, Link{Delay: 10 * time.Millisecond})
	d, err := echo(call(t, s, 0, 1), []byte("ping"), 10*time.Second)
	if err != nil || d < 100*time.Millisecond {
		t.Errorf("two lines of 40 and 10 ms, there and back: %s, %v", d, err)
	}
}

func TestLinesPace(t *testing.T) {
	s := network(t, 2, Link{})
	s.limit(1, Link{Rate: 1 << 20})
	const size = 512 << 10
	d, err := echo(call(t, s, 0, 1), make([]byte, size), 20*time.Second)
	// Down and up go at the same time; the first burst is free.
	if least := time.Duration(float64(size-burst) / (1 << 20) * 0.9 * float64(time.Second)); err != nil || d < least {
		t.Errorf("%d bytes at 1 MiB/s came back after %s, want at least %s (%v)", size, d, least, err)
	}
}

// While a partition lasts nothing moves between its sides, whoever connected
// when; within a side all goes on; afterwards what stood still arrives.
func TestPartition(t *testing.T) {
	s := network(t, 3, Link{})
	across, within := call(t, s, 0, 2), call(t, s, 0, 1)
	for _, c := range []net.Conn{across, within} {
		if _, err := echo(c, []byte("before"), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	s.split([][]int{{0, 1}, {2}})
	before, _ := s.crossing()
	if before == 0 {
		t.Fatal("nothing was counted")
	}
	if _, err := echo(within, []byte("inside"), 5*time.Second); err != nil {
		t.Errorf("within a side: %v", err)
	}
	fresh := call(t, s, 2, 1)
	for _, c := range []net.Conn{across, fresh} {
		if err := c.SetDeadline(time.Now().Add(150 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Errorf("a dead line does not refuse: %v", err)
		}
		if n, err := c.Read(make([]byte, 8)); n > 0 || err == nil {
			t.Errorf("%d bytes crossed the partition", n)
		}
	}
	if after, held := s.crossing(); after != before || held != 1 {
		t.Errorf("%d bytes crossed, %d connections held up; want 0 and 1", after-before, held)
	}
	s.split(nil)
	for _, c := range []net.Conn{across, fresh} {
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Errorf("after healing: %q, %v", got, err)
		}
	}
}

func TestUnknownCallersAreRefused(t *testing.T) {
	s := network(t, 2, Link{})
	c, err := net.Dial("tcp", s.front[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := echo(c, []byte("who am I"), 5*time.Second); err == nil {
		t.Error("a caller without a name got through")
	}
}
