package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// What a swarm's ledger begins with, in tokens.
const (
	trainerStake   = 100
	validatorStake = 2000
	pocket         = 500  // beside the stake: bonds
	poolTokens     = 5000 // of the run
	epochBudget    = 100
	epochLength    = 20 * time.Second
)

// Names below the directory of a ledger.
const (
	ledgerDir  = "ledger"
	chainJSON  = "chain.json"
	sponsorDir = "sponsor"
	blocksDir  = "chain"
	ledgerLook = 3 * time.Second // between two looks at the ledger
)

// A ledger is the chain of its own that a swarm settles on: a process of
// `shoal chain dev`, and the sponsor's account. Each peer's own key is its account.
type ledger struct {
	s    *swarm
	port int
	proc *process // nil while the chain is stopped

	mu   sync.Mutex // guards the following
	seen []LedgerEvent
	last *ledgerStatus
}

// A ledgerStatus is what `shoal chain status --json` says, as far as reports need it.
type ledgerStatus struct {
	Balanced bool          `json:"balanced"`
	Events   []LedgerEvent `json:"events"`
	Books    []LedgerLine  `json:"books"`
	Runs     []struct {
		Epoch uint64 `json:"epoch"`
		Final struct {
			Epoch uint64 `json:"epoch"`
		} `json:"final"`
	} `json:"runs"`
}

func (l *ledger) path(name ...string) string {
	return l.s.path(append([]string{ledgerDir}, name...)...)
}

// shoal runs a command of one account to its end.
func (l *ledger) shoal(ctx context.Context, dir string, args ...string) ([]byte, error) {
	return l.s.launcher.output(ctx, l.s.log("ledger"), append(args, "--dir", dir, "--json")...)
}

// newLedger makes the sponsor's key.
func (s *swarm) newLedger(ctx context.Context) (*ledger, error) {
	l := &ledger{s: s}
	var err error
	if l.port, err = freeUDPPort(); err != nil {
		return nil, fmt.Errorf("port of the ledger: %w", err)
	}
	if err := os.MkdirAll(l.path(sponsorDir), 0o700); err != nil {
		return nil, err
	}
	_, err = l.shoal(ctx, l.path(sponsorDir), "key", "new", "--light")
	return l, err
}

// start starts the chain's process and waits until it answers.
func (l *ledger) start(ctx context.Context) error {
	args := []string{"chain", "dev", "--port", strconv.Itoa(l.port), "--data", l.path(blocksDir), "--dir", l.path(sponsorDir)}
	for _, p := range l.s.peers {
		args = append(args, "--fund", p.rec.Account)
	}
	proc, err := l.s.launcher.launch(ctx, l.s.log("chain"), args...)
	if err != nil {
		return fmt.Errorf("start the chain: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(l.port)), time.Second)
		if err == nil {
			l.proc = proc
			return c.Close()
		}
		select {
		case <-proc.done:
			return fmt.Errorf("the chain ended by itself: %w; see %s", proc.err, l.s.log("chain"))
		case <-limit.C:
			proc.kill()
			return fmt.Errorf("the chain does not answer on port %d: %w", l.port, err)
		case <-ctx.Done():
			proc.kill()
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// kill ends the chain's process without warning.
func (l *ledger) kill() {
	if l.proc != nil {
		l.proc.kill()
		l.proc = nil
	}
}

// stop ends it in order.
func (l *ledger) stop() {
	if l.proc == nil {
		return
	}
	if err := l.proc.leave(patience); err != nil {
		l.s.c.Failures = append(l.s.c.Failures, fmt.Sprintf("chain: %v", err))
	}
	l.proc = nil
}

// found deploys the contracts, signs the manifest and gives every account its
// tokens and stake, all by commands that anybody can type.
func (l *ledger) found(ctx context.Context) error {
	s, sponsor := l.s, l.path(sponsorDir)
	if err := l.start(ctx); err != nil {
		return err
	}
	s.Line("deploying the contracts")
	url := "http://127.0.0.1:" + strconv.Itoa(l.port)
	if _, err := l.shoal(ctx, sponsor, "chain", "deploy", "--chain", url); err != nil {
		return err
	}
	where, err := os.ReadFile(l.path(sponsorDir, chainJSON))
	if err != nil {
		return fmt.Errorf("deployment: %w", err)
	}
	for _, p := range s.peers {
		if err := os.WriteFile(filepath.Join(p.dir, chainJSON), where, 0o600); err != nil {
			return err
		}
	}
	_, err = l.shoal(ctx, sponsor, "manifest", "sign", s.path(manifestFile), "--budget", strconv.Itoa(epochBudget))
	return err
}

// settleIn gives every peer its tokens, stakes them, and puts the run on the ledger.
func (l *ledger) settleIn(ctx context.Context) error {
	s, sponsor := l.s, l.path(sponsorDir)
	s.Line("staking for every peer, and putting the run on the ledger")
	// The run first: its epochs begin a little later, and before the peers do.
	if _, err := l.shoal(ctx, sponsor, "fund", s.path(manifestFile), strconv.Itoa(poolTokens), "--epoch", epochLength.String()); err != nil {
		return err
	}
	errs := make([]error, len(s.peers))
	var work sync.WaitGroup
	for i, p := range s.peers {
		if _, err := l.shoal(ctx, sponsor, "chain", "send", p.rec.Account, strconv.Itoa(p.stake()+pocket)); err != nil {
			work.Wait()
			return err
		}
		work.Go(func() { _, errs[i] = l.shoal(ctx, p.dir, "stake", strconv.Itoa(p.stake()), "--role", p.rec.role()) })
	}
	work.Wait()
	return errors.Join(errs...)
}

// unbond takes all of a peer's stake back, as its owner would.
func (l *ledger) unbond(ctx context.Context, p *peer) error {
	_, err := l.shoal(ctx, p.dir, "unbond", strconv.Itoa(p.stake()), "--role", p.rec.role())
	return err
}

// stake is how much a peer stakes.
func (p *peer) stake() int {
	if p.rec.Validator {
		return validatorStake
	}
	return trainerStake
}

// look asks the ledger how it stands and notes what is new.
func (l *ledger) look(ctx context.Context) (*ledgerStatus, error) {
	out, err := l.shoal(ctx, l.path(sponsorDir), "chain", "status", "--timeout", "20s")
	if err != nil {
		return nil, err
	}
	st := new(ledgerStatus)
	if err := json.Unmarshal(out, st); err != nil {
		return nil, fmt.Errorf("status of the ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.seen); i < len(st.Events); i++ {
		e := st.Events[i]
		e.T = l.s.now()
		l.seen = append(l.seen, e)
	}
	l.last = st
	return st, nil
}

// watch looks every few seconds until ctx ends. While the chain is down there
// is nothing to see.
func (l *ledger) watch(ctx context.Context) {
	tick := time.NewTicker(ledgerLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := l.look(ctx); err != nil && ctx.Err() == nil {
				continue
			}
		}
	}
}

// endLedger ends the chain's process, if there is one.
func (s *swarm) endLedger() {
	if s.ledger != nil {
		s.ledger.stop()
	}
}
