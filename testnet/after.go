package testnet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
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

// trainersAtFirst is how many of the peers that start at once train honestly or
// claim to: the others audit or watch.
func (s *swarm) trainersAtFirst() (n int) {
	for _, p := range s.peers[:s.Config.Peers] {
		if !p.rec.Validator && !p.rec.Observer {
			n++
		}
	}
	return n
}

// baselines trains by oneself what the swarm trained together: the same steps
// with the batches of all peers, and with one peer's.
func (s *swarm) baselines(ctx context.Context) error {
	if !s.Config.Baseline || s.c.TimedOut {
		return nil
	}
	for _, b := range []struct {
		name  string
		peers int
		to    *[]Point
	}{{"single", s.trainersAtFirst(), &s.c.Single}, {"alone", 1, &s.c.Alone}} {
		s.Line(fmt.Sprintf("baseline: one process with %s", map[string]string{"single": "the batches of all peers", "alone": "one peer's batch"}[b.name]))
		start := time.Now()
		out, err := s.launcher.output(ctx, s.log("baseline"), "testnet", "baseline", s.path(manifestFile),
			"--dir", s.peers[0].dir, "--peers", strconv.Itoa(b.peers))
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
