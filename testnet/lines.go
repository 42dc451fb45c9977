package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	chunk     = 32 << 10 // bytes moved at once
	inFlight  = 256      // chunks under way in one direction of a connection: 8 MiB
	burst     = 128 << 10
	dialLimit = 5 * time.Second
)

// lines are the proxies in front of all peers and what limits them.
//
// A connection from peer i to peer j is accepted by j's proxy, which knows i
// by its address, and forwarded to j's own port from i's address. Bytes wait
// for the delays of both lines, then for the pace of i's line up and j's line
// down, and for any partition to end.
type lines struct {
	addrs []netip.AddrPort // where each peer itself listens
	front []net.Listener   // its proxies
	line  []*line
	moved []atomic.Uint64 // bytes from peer i to peer j, at i*len(addrs)+j

	mu    sync.Mutex    // guards the following
	side  []int         // the group of each peer; all 0 without a partition
	moves chan struct{} // closed, and replaced, when side changes
	held  uint64        // connections that waited for a partition
}

// A line is one peer's access.
type line struct {
	up, down *rate.Limiter
	delay    atomic.Int64 // nanoseconds
}

// hostOf is the loopback address of a peer.
func hostOf(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 77, byte(i / 200), byte(i%200 + 1)})
}

// newLines opens a proxy for each of n peers and picks their own ports.
func newLines(n int, l Link) (*lines, error) {
	s := &lines{side: make([]int, n), moves: make(chan struct{}), moved: make([]atomic.Uint64, n*n)}
	for i := range n {
		port, err := freePort(hostOf(i))
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.addrs = append(s.addrs, netip.AddrPortFrom(hostOf(i), port))
		ln, err := net.Listen("tcp", netip.AddrPortFrom(hostOf(i), 0).String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("proxy of peer %d: %w", i, err), s.close())
		}
		s.front = append(s.front, ln)
		ln0 := &line{up: rate.NewLimiter(rate.Inf, burst), down: rate.NewLimiter(rate.Inf, burst)}
		s.line = append(s.line, ln0)
		s.limit(i, l)
	}
	return s, nil
}

// freePort is a port of host that nobody listens on now.
func freePort(host netip.Addr) (uint16, error) {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(host, 0).String())
	if err != nil {
		return 0, fmt.Errorf("a port on %s: %w (limits and partitions need Linux, where all of 127/8 is loopback)", host, err)
	}
	defer ln.Close()
	a, err := netip.ParseAddrPort(ln.Addr().String())
	return a.Port(), err
}

func (s *lines) close() error {
	var errs []error
	for _, ln := range s.front {
		errs = append(errs, ln.Close())
	}
	return errors.Join(errs...)
}

// port is where a peer's proxy listens.
func (s *lines) port(i int) int {
	a, err := netip.ParseAddrPort(s.front[i].Addr().String())
	if err != nil { // cannot happen: it is a TCP listener
		return 0
	}
	return int(a.Port())
}

// limit sets a peer's line from now on.
func (s *lines) limit(i int, l Link) {
	r := rate.Inf
	if l.Rate > 0 {
		r = rate.Limit(l.Rate)
	}
	s.line[i].up.SetLimit(r)
	s.line[i].down.SetLimit(r)
	s.line[i].delay.Store(int64(l.Delay))
}

// split puts the peers of each group on a side of their own; who is in none is
// with the first. No groups heal.
func (s *lines) split(groups [][]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.side)
	for g, peers := range groups {
		for _, p := range peers {
			if p < len(s.side) {
				s.side[p] = g
			}
		}
	}
	close(s.moves)
	s.moves = make(chan struct{})
	s.held = 0
}

// crossing returns the bytes that ever passed between peers that are on
// different sides now, and the connections held up since the last split.
func (s *lines) crossing() (bytes, held uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.side)
	for i := range n {
		for j := range n {
			if s.side[i] != s.side[j] {
				bytes += s.moved[i*n+j].Load()
			}
		}
	}
	return bytes, s.held
}

// together waits until i and j are on one side.
func (s *lines) together(ctx context.Context, i, j int, count bool) error {
	for {
		s.mu.Lock()
		ok, moves := s.side[i] == s.side[j], s.moves
		if !ok && count {
			s.held++
			count = false
		}
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moves:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run serves the proxies until ctx ends.
func (s *lines) run(ctx context.Context) error {
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() {
		if err := s.close(); err != nil {
			slog.Debug("close proxies", "err", err)
		}
	})
	defer stop()
	for j := range s.front {
		wg.Go(func() {
			for {
				in, err := s.front[j].Accept()
				if err != nil {
					if ctx.Err() == nil {
						slog.Error("proxy", "peer", j, "err", err)
					}
					return
				}
				wg.Go(func() { s.serve(ctx, in, j) })
			}
		})
	}
	wg.Wait()
	return nil
}

// serve forwards one connection to peer j.
func (s *lines) serve(ctx context.Context, in net.Conn, j int) {
	defer in.Close()
	i := s.caller(in)
	if i < 0 {
		return // not to be told apart: it might be on the other side
	}
	if s.together(ctx, i, j, true) != nil {
		return
	}
	d := net.Dialer{Timeout: dialLimit, LocalAddr: &net.TCPAddr{IP: hostOf(i).AsSlice()}}
	out, err := d.DialContext(ctx, "tcp", s.addrs[j].String())
	if err != nil {
		return // the peer is down: the caller sees its connection closed
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { s.forward(ctx, cancel, out, in, i, j) })
	wg.Go(func() { s.forward(ctx, cancel, in, out, j, i) })
	<-ctx.Done()
	in.Close()
	out.Close()
	wg.Wait()
}

func (s *lines) caller(c net.Conn) int {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return -1
	}
	for i := range s.addrs {
		if s.addrs[i].Addr() == a.Addr() {
			return i
		}
	}
	return -1
}

type packet struct {
	due  time.Time
	data []byte
}

// forward moves bytes of peer i to peer j until either end closes. An orderly
// end of src is passed on once what came before it has been.
func (s *lines) forward(ctx context.Context, cancel func(), dst, src net.Conn, i, j int) {
	queue := make(chan packet, inFlight)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(queue)
		for {
			buf := make([]byte, chunk)
			n, err := src.Read(buf)
			if n > 0 {
				delay := time.Duration(s.line[i].delay.Load() + s.line[j].delay.Load())
				select {
				case queue <- packet{time.Now().Add(delay), buf[:n]}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					cancel()
				}
				return
			}
		}
	})
	defer wg.Wait()
	for p := range queue {
		if err := s.deliver(ctx, dst, p, i, j); err != nil {
			cancel()
			return
		}
	}
	if s.together(ctx, i, j, false) != nil {
		return
	}
	if half, ok := dst.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		cancel()
	}
}

func (s *lines) deliver(ctx context.Context, dst net.Conn, p packet, i, j int) error {
	if wait := time.Until(p.due); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := s.line[i].up.WaitN(ctx, len(p.data)); err != nil {
		return err
	}
	if err := s.line[j].down.WaitN(ctx, len(p.data)); err != nil {
		return err
	}
	if err := s.together(ctx, i, j, false); err != nil {
		return err
	}
	// Counted first: whoever sees the bytes finds them counted.
	s.moved[i*len(s.addrs)+j].Add(uint64(len(p.data)))
	_, err := dst.Write(p.data)
	return err
}
