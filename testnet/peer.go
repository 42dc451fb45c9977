package testnet

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/control"
)

// A peer is one member of the swarm and its process, if it has one now.
type peer struct {
	index int
	dir   string
	addr  string // multiaddr under which the others reach it
	quic  string // where it listens, without lines
	tcp   string
	ask   *control.Client
	rec   *PeerRecord
	proc  *process
}

// newPeer makes the peer's directory and key and settles its addresses.
func (s *swarm) newPeer(ctx context.Context, i int) (*peer, error) {
	name := "p" + strconv.Itoa(i)
	p := &peer{index: i, dir: s.path(peersDir, name), rec: &PeerRecord{
		Name: name, Observer: slices.Contains(s.Config.Observers, i), Validator: slices.Contains(s.Config.Validators, i)}}
	if c := slices.IndexFunc(s.Config.Cheats, func(c Cheat) bool { return c.Peer == i }); c >= 0 {
		p.rec.Cheat = &s.Config.Cheats[c]
	}
	p.ask = control.Dial(p.dir)
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	out, err := s.launcher.output(ctx, s.log("prepare"), "key", "new", "--light", "--json", "--dir", p.dir)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, &struct {
		Peer    any `json:"peer"`
		Address any `json:"address"`
	}{&p.rec.ID, &p.rec.Account}); err != nil {
		return nil, fmt.Errorf("key of %s: %w", name, err)
	}
	p.rec.Account = strings.ToLower(p.rec.Account)
	if s.lines != nil {
		p.addr = fmt.Sprintf("/ip4/%s/tcp/%d/p2p/%s", hostOf(i), s.lines.port(i), p.rec.ID)
		return p, nil
	}
	port, err := freeUDPPort()
	if err != nil {
		return nil, fmt.Errorf("port of %s: %w", name, err)
	}
	p.quic, p.tcp = fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", port), fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)
	p.addr = p.quic + "/p2p/" + p.rec.ID.String()
	return p, nil
}

// freeUDPPort is a loopback port that is free now, on UDP and TCP.
func freeUDPPort() (int, error) {
	for range 20 {
		u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return 0, err
		}
		port := u.LocalAddr().(*net.UDPAddr).Port
		t, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		u.Close()
		if err == nil {
			return port, t.Close()
		}
	}
	return 0, fmt.Errorf("no port of 127.0.0.1 is free for both UDP and TCP")
}

// networkArgs are what peer i is told of the network; the one after the last
// is the auditor.
func (s *swarm) networkArgs(i int) []string {
	args := []string{"--no-mdns", "--local"}
	switch {
	case s.lines != nil:
		args = append(args, "--listen", fmt.Sprintf("/ip4/%s/tcp/%d", hostOf(i), s.lines.addrs[i].Port()),
			"--announce-only", fmt.Sprintf("/ip4/%s/tcp/%d", hostOf(i), s.lines.port(i)))
	case i < len(s.peers):
		args = append(args, "--listen", s.peers[i].quic, "--listen", s.peers[i].tcp)
	default:
		args = append(args, "--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--listen", "/ip4/127.0.0.1/tcp/0")
	}
	for b, p := range s.peers {
		// The auditor comes last, when the first bootstraps may be long gone: any peer will do.
		told := slices.Contains(s.Config.Bootstraps, b) || i == len(s.peers) && p.proc != nil
		if told && b != i {
			args = append(args, "--bootstrap", p.addr)
		}
	}
	return args
}

// launch starts the peer's process, for the first time or again.
func (p *peer) launch(ctx context.Context, s *swarm) error {
	verb := []string{"join", s.c.Run.String()}
	if p.index == 0 {
		verb = []string{"publish", s.path(manifestFile), "--join"}
	}
	args := append(verb, "--dir", p.dir, "--json", "--log-level", "info")
	args = append(args, s.networkArgs(p.index)...)
	args = append(args, "--threads", strconv.Itoa(s.threads()))
	if p.rec.Observer {
		args = append(args, "--observe")
	}
	if p.rec.Validator {
		args = append(args, "--role", "validator")
	}
	if c := p.rec.Cheat; c != nil {
		args = append(args, "--cheat", fmt.Sprintf("%s:%d", c.Kind, c.Round))
	}
	proc, err := s.launcher.launch(ctx, s.log(p.rec.Name), args...)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.rec.Name, err)
	}
	p.proc = proc
	p.rec.Last = nil
	p.rec.Lives = append(p.rec.Lives, Life{From: s.now()})
	return nil
}

// end ends the peer's process as the event says and records what it leaves.
func (s *swarm) end(p *peer, how Action) {
	if p.proc == nil {
		return
	}
	var err error
	if how == Kill {
		p.proc.kill()
	} else {
		err = p.proc.leave(patience)
	}
	end := string(how)
	if err != nil {
		s.c.Failures = append(s.c.Failures, fmt.Sprintf("%s: %v", p.rec.Name, err))
		end = err.Error()
	}
	s.ended(p, end)
}

// ended notes the end of a life, with what was on disk then.
func (s *swarm) ended(p *peer, how string) {
	life := &p.rec.Lives[len(p.rec.Lives)-1]
	life.To, life.End = s.now(), how
	if n := len(p.rec.Seen); n > 0 {
		life.FinalRound = p.rec.Seen[n-1].FinalRound
	}
	h, err := readHistory(p.dir)
	if err != nil {
		s.c.Failures = append(s.c.Failures, err.Error())
	} else if n := len(h); n > 0 {
		life.Lines, life.LastCommit = n, h[n-1].Commit
	}
	p.proc = nil
}

// endAll ends whoever still runs, all at once.
func (s *swarm) endAll() {
	var wg sync.WaitGroup
	errs := make([]error, len(s.peers))
	running := make([]bool, len(s.peers))
	for i, p := range s.peers {
		if p.proc == nil {
			continue
		}
		running[i] = true
		wg.Go(func() { errs[i] = p.proc.leave(patience) })
	}
	wg.Wait()
	for i, p := range s.peers {
		if !running[i] {
			continue
		}
		how := "done"
		if errs[i] != nil {
			how = errs[i].Error()
			s.c.Failures = append(s.c.Failures, fmt.Sprintf("%s: %v", p.rec.Name, errs[i]))
		}
		s.ended(p, how)
		if how == "done" && s.c.Seconds > 0 {
			p.rec.Lives[len(p.rec.Lives)-1].To = s.c.Seconds
		}
	}
}

// look asks every running peer how it stands.
func (s *swarm) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	got := make([]*node.Status, len(s.peers))
	for i, p := range s.peers {
		if p.proc == nil {
			continue
		}
		wg.Go(func() {
			st := new(node.Status)
			if p.ask.Get(ctx, "/status", st) == nil { // no answer: starting, or busy; the exit is what counts
				got[i] = st
			}
		})
	}
	wg.Wait()
	for i, p := range s.peers {
		if p.proc == nil {
			continue
		}
		if p.proc.ended() {
			s.Line(fmt.Sprintf("%s ended by itself: %v; see %s", p.rec.Name, p.proc.err, s.log(p.rec.Name)))
			s.c.Failures = append(s.c.Failures, fmt.Sprintf("%s ended by itself: %v", p.rec.Name, p.proc.err))
			s.ended(p, fmt.Sprintf("ended by itself: %v", p.proc.err))
			continue
		}
		if st := got[i]; st != nil {
			p.see(st, s.now())
			s.top = max(s.top, st.Round)
		}
	}
}

// see keeps a status, and its position where it changed.
func (p *peer) see(st *node.Status, t float64) {
	p.rec.Last = st
	life := &p.rec.Lives[len(p.rec.Lives)-1]
	life.Resumed = max(life.Resumed, st.Resumed)
	now := Seen{t, st.Phase, st.Round, st.Head, st.State, st.Final, st.FinalRound, st.FinalState}
	if n := len(p.rec.Seen); n > 0 {
		was := p.rec.Seen[n-1]
		was.T, was.Phase = now.T, now.Phase // phases come and go: not worth a line each
		if was == now {
			return
		}
	}
	p.rec.Seen = append(p.rec.Seen, now)
}

// threads is how many each peer computes with: all share this machine.
func (s *swarm) threads() int { return max(1, s.Config.Threads) }
