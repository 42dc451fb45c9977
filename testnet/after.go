package testnet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shoalnet/shoal/p2p/wire"
)

// audit fetches the whole lineage as an outsider would, from the peers that
// still serve it, and recomputes it.
func (s *swarm) audit(ctx context.Context) error {
	s.Line("fetching model and lineage from the swarm")
	args := []string{"export", s.c.Run.String(), s.path(modelDir), "--dir", s.path(auditorDir)}
	args = append(args, s.networkArgs(len(s.peers))...)
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if _, err := s.launcher.output(ctx, s.log("auditor"), args...); err != nil {
		s.c.LineageError = err.Error()
		return nil
	}
	s.Line("recomputing every outer step from genesis")
	out, err := s.launcher.output(ctx, s.log("auditor"), "lineage", "verify", s.path(modelDir), "--json")
	if err != nil {
		s.c.LineageError = err.Error()
	}
	l := new(Lineage)
	if jerr := json.Unmarshal(out, l); jerr != nil {
		s.c.LineageError = cmp.Or(s.c.LineageError, "unreadable answer: "+jerr.Error())
	} else {
		s.c.Lineage = l
	}
	if s.Config.Prompt != "" {
		out, err := s.launcher.output(ctx, s.log("auditor"), "generate", s.path(modelDir), "-p", s.Config.Prompt, "-n", "400", "--temperature", "0.6", "--seed", "7", "--json")
		var sample struct{ Text string }
		if err == nil {
			err = json.Unmarshal(out, &sample)
		}
		if err != nil {
			s.c.Failures = append(s.c.Failures, err.Error())
		}
		s.c.Sample = sample.Text
	}
	return nil
}

// batches is how many honest trainers the roster had in each round: whose batches
// one process must take to have what they had. The first roster is made in round 0.
func (c *Chronicle) batches() []string {
	honest := map[wire.PeerID]bool{}
	for _, p := range c.Peers {
		honest[p.ID] = !p.Validator && !p.Observer && p.Cheat == nil
	}
	out, next := make([]string, len(c.Lineage.Chain)), 1
	for i, l := range slices.Backward(c.Lineage.Chain) {
		if len(l.Roster) > 0 {
			next = 0
			for _, p := range l.Roster {
				if honest[p] {
					next++
				}
			}
		}
		out[i] = strconv.Itoa(max(next, 1))
	}
	return out
}

// baselines trains by oneself what the swarm trained together: the same steps
// with the batches of all honest peers that were there, and with one peer's.
func (s *swarm) baselines(ctx context.Context) error {
	if !s.Config.Baseline || s.c.TimedOut || s.c.Lineage == nil {
		return nil
	}
	for _, b := range []struct {
		name  string
		peers []string
		to    *[]Point
	}{{"single", s.c.batches(), &s.c.Single}, {"alone", []string{"1"}, &s.c.Alone}} {
		s.Line(fmt.Sprintf("baseline: one process with %s", map[string]string{"single": "the batches of all honest peers", "alone": "one peer's batch"}[b.name]))
		start := time.Now()
		out, err := s.launcher.output(ctx, s.log("baseline"), "testnet", "baseline", s.path(manifestFile),
			"--dir", s.peers[0].dir, "--peers", strings.Join(b.peers, ","))
		if err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			s.c.Failures = append(s.c.Failures, fmt.Sprintf("baseline %s: %v", b.name, err))
			continue
		}
		if err := json.Unmarshal(out, b.to); err != nil {
			s.c.Failures = append(s.c.Failures, fmt.Sprintf("baseline %s: %v", b.name, err))
			continue
		}
		s.Line(fmt.Sprintf("  validation loss %.3f after %.0f s", lastLoss(*b.to), time.Since(start).Seconds()))
	}
	return nil
}
