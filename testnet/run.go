package testnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/shoalnet/shoal/node/manifest"
)

const (
	poll     = 250 * time.Millisecond // between two looks at all peers
	patience = 20 * time.Second       // for a peer to leave after SIGTERM
)

// Options say what to run, where, and whom to tell.
type Options struct {
	Config *Config
	// Files holds what the configuration names: manifest, text, tokenizer.
	Files fs.FS
	// Root is the directory of Files on disk, where the base is looked for; empty where it has none.
	Root string
	// Dir is where everything goes. What an earlier testnet left there is
	// replaced; anything else is not touched.
	Dir string
	// Exe is the shoal program.
	Exe string
	// Command is what the user typed, for the report.
	Command string
	// Line tells of something that happened; Now of how it stands, to be overwritten by the next.
	Line func(string)
	Now  func(string)
}

// A swarm is a testnet that runs.
type swarm struct {
	Options
	launcher *launcher
	lines    *lines  // nil where lines are not limited
	ledger   *ledger // nil where the run settles nowhere
	manifest *manifest.Manifest
	c        *Chronicle
	peers    []*peer
	ports    []int // without lines: where each peer listens
	next     int   // index of the next event
	top      uint64
	due      time.Time // when the next event's wait is over; zero before its trigger
}

// Run starts the swarm, waits for it to end, and writes the record and report.
// The report says whether all went well; an error means that it could not be
// tried. No process is left behind.
func Run(ctx context.Context, opt Options) (*Report, error) {
	dir, err := filepath.Abs(opt.Dir)
	if err != nil {
		return nil, err
	}
	opt.Dir = dir
	if err := clearOutput(dir); err != nil {
		return nil, err
	}
	s := &swarm{Options: opt, launcher: newLauncher(opt.Exe)}
	defer s.launcher.close()
	defer s.endLedger()
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.swim(ctx); err != nil {
		return nil, err
	}
	if err := s.baselines(ctx); err != nil {
		return nil, err
	}
	if err := s.c.save(dir); err != nil {
		return nil, err
	}
	return Rebuild(dir)
}

// clearOutput makes dir, or empties it of an earlier testnet.
func clearOutput(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o755)
	} else if err != nil {
		return err
	}
	ours := []string{chronicleFile, reportJSON, reportHTML, manifestFile, modelDir, peersDir, logsDir, textFile, tokenizerFile, auditorDir, ledgerDir}
	for _, e := range entries {
		if !slices.Contains(ours, e.Name()) {
			return fmt.Errorf("%s holds %s, which no testnet put there: choose another directory", dir, e.Name())
		}
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Names of prepared inputs, beside those of the output.
const (
	textFile      = "text.txt"
	tokenizerFile = "tokenizer.json"
	auditorDir    = "auditor"
)

func (s *swarm) path(name ...string) string {
	return filepath.Join(append([]string{s.Dir}, name...)...)
}

func (s *swarm) log(name string) string { return s.path(logsDir, name+".log") }

// prepare makes keys, shards the text and settles the manifest.
func (s *swarm) prepare(ctx context.Context) error {
	for _, d := range []string{peersDir, logsDir} {
		if err := os.MkdirAll(s.path(d), 0o755); err != nil {
			return err
		}
	}
	cfg := s.Config
	raw, err := s.manifestText()
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path(manifestFile), raw, 0o644); err != nil {
		return err
	}
	total := cfg.total()
	if cfg.shaped() {
		if s.lines, err = newLines(total+1, cfg.Link); err != nil { // the auditor has a line, too
			return err
		}
	}
	s.c = &Chronicle{
		Name: cfg.Name, Stall: cfg.Stall.Seconds(), Expect: cfg.Expect, AtFirst: cfg.Peers, Prompt: cfg.Prompt, Command: s.Command,
		Machine: fmt.Sprintf("%d cores, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH),
	}
	if cfg.Chain {
		if s.ledger, err = s.newLedger(ctx); err != nil {
			return err
		}
	}
	for i := range total {
		p, err := s.newPeer(ctx, i)
		if err != nil {
			return err
		}
		s.peers = append(s.peers, p)
		s.c.Peers = append(s.c.Peers, p.rec)
	}
	if cfg.Base != "" {
		if err := s.prepareBase(ctx); err != nil {
			return err
		}
	}
	if cfg.Data.Text != "" {
		if err := s.prepareData(ctx); err != nil {
			return err
		}
	}
	if s.ledger != nil {
		s.c.Money = new(Money)
		if err := s.ledger.found(ctx); err != nil {
			return err
		}
	}
	if raw, err = os.ReadFile(s.path(manifestFile)); err != nil {
		return err
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path(manifestFile), err)
	}
	run, err := m.CID()
	if err != nil {
		return err
	}
	if want, n := m.Admission.MinPeers, cfg.firstTrainers(); want > n {
		return fmt.Errorf("testnet: the manifest's admission.min_peers is %d, and %d start that train: no round would ever begin", want, n)
	}
	s.manifest = m
	s.c.Name = cmp.Or(s.c.Name, m.Name)
	s.c.Manifest, s.c.Run, s.c.Rounds, s.c.DropAfter, s.c.Steps = string(raw), run, m.Stop.Rounds, m.Round.DropAfter, m.Round.InnerSteps
	s.c.Audit = AuditTerms{Rate: m.Verification.AuditRate, Segments: m.Verification.Segments, Window: m.Verification.Window}
	if s.ledger != nil {
		return s.ledger.settleIn(ctx)
	}
	return nil
}

func (s *swarm) manifestText() ([]byte, error) {
	if s.Config.Manifest != "" {
		b, err := fs.ReadFile(s.Files, s.Config.Manifest)
		if err != nil {
			return nil, fmt.Errorf("testnet: manifest: %w", err)
		}
		return b, nil
	}
	b, err := yaml.Marshal(&s.Config.Run)
	if err != nil {
		return nil, fmt.Errorf("testnet: run: %w", err)
	}
	return b, nil
}

// prepareData puts the shards of the text into the first peer's store.
func (s *swarm) prepareData(ctx context.Context) error {
	copyIn := func(from, to string) error {
		b, err := fs.ReadFile(s.Files, from)
		if err != nil {
			return fmt.Errorf("testnet: data: %w", err)
		}
		return os.WriteFile(s.path(to), b, 0o644)
	}
	if err := copyIn(s.Config.Data.Text, textFile); err != nil {
		return err
	}
	tok := s.Config.Data.Tokenizer
	if tok != "char" && tok != "" {
		if err := copyIn(tok, tokenizerFile); err != nil {
			return err
		}
		tok = s.path(tokenizerFile)
	}
	s.Line(fmt.Sprintf("preparing %s", s.Config.Data.Text))
	args := []string{"data", "prepare", s.path(textFile), "--into", s.path(manifestFile), "--dir", s.peers[0].dir}
	if tok != "" {
		args = append(args, "--tokenizer", tok)
	}
	if d := &s.Config.Data; d.Split != "" {
		args = append(args, "--split", d.Split, "--eos", d.EOS)
	}
	_, err := s.launcher.output(ctx, s.log("prepare"), args...)
	return err
}

// swim runs the swarm itself: peers, events, the audit of its chain.
func (s *swarm) swim(ctx context.Context) (err error) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.lines != nil {
		over := make(chan error, 1)
		go func() { over <- s.lines.run(inner) }()
		defer func() {
			cancel()
			err = errors.Join(err, <-over)
		}()
	}
	if s.ledger != nil {
		var watching sync.WaitGroup
		watching.Go(func() { s.ledger.watch(inner) })
		defer func() {
			cancel()
			watching.Wait()
		}()
	}
	defer s.endAll()
	s.c.Start = time.Now()
	for i := range s.Config.Peers {
		if err := s.peers[i].launch(ctx, s); err != nil {
			return err
		}
	}
	s.Line(fmt.Sprintf("%d peers started: %s", s.Config.Peers, s.path(peersDir)))
	if err := s.watch(ctx); err != nil {
		return err
	}
	s.c.Seconds = s.now()
	if s.c.TimedOut || !s.anyDone() {
		return nil // nothing to audit; the report says what is missing
	}
	if s.ledger != nil {
		s.ledger.settled(ctx)
	}
	if err := s.audit(ctx); err != nil {
		return err
	}
	if s.ledger != nil {
		s.endAll()
		s.ledger.claim(ctx)
	}
	return nil
}

// now is the seconds since the start.
func (s *swarm) now() float64 { return time.Since(s.c.Start).Seconds() }

// watch looks at the peers and lets events happen until all is done.
func (s *swarm) watch(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	limit := time.NewTimer(s.Config.Timeout)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted in round %d; what was written lies in %s", s.top, s.Dir)
		case <-limit.C:
			s.c.TimedOut = true
			s.Line(fmt.Sprintf("timeout after %s in round %d of %d", s.Config.Timeout, s.top, s.c.Rounds))
			return nil
		case <-tick.C:
		}
		s.look(ctx)
		if err := s.happen(ctx); err != nil {
			return err
		}
		s.Now(s.summary())
		up, done := 0, 0
		for _, p := range s.peers {
			if p.proc != nil && p.rec.Cheat == nil { // a convict need not see the end
				up++
				if p.rec.last().Done {
					done++
				}
			}
		}
		switch {
		case up == 0 && s.next >= len(s.Config.Events):
			s.c.Failures = append(s.c.Failures, "no peer is left")
			return nil
		case up > 0 && done == up && s.next >= len(s.Config.Events):
			return nil
		case up > 0 && done == up && s.due.IsZero() && s.Config.Events[s.next].Round > s.c.Rounds:
			s.c.Failures = append(s.c.Failures, fmt.Sprintf("the run ended before event %d", s.next))
			return nil
		}
	}
}

// happen lets those events happen whose time has come, in their order.
func (s *swarm) happen(ctx context.Context) error {
	for s.next < len(s.Config.Events) {
		e := s.Config.Events[s.next]
		if s.due.IsZero() {
			if e.Round > 0 && s.top < e.Round || e.At > 0 && time.Since(s.c.Start) < e.At {
				return nil
			}
			s.due = time.Now().Add(e.Wait)
		}
		if time.Now().Before(s.due) {
			return nil
		}
		s.due = time.Time{}
		s.next++
		if err := s.apply(ctx, e); err != nil {
			return err
		}
		s.c.Events = append(s.c.Events, Happened{s.now(), s.top, e})
	}
	return nil
}

func (s *swarm) apply(ctx context.Context, e Event) error {
	at := fmt.Sprintf("round %d: ", s.top)
	for _, i := range e.Peers {
		p := s.peers[i]
		switch e.Do {
		case Kill, Stop:
			s.Line(at + p.rec.Name + map[Action]string{Kill: " killed (kill -9)", Stop: " stopped (SIGTERM)"}[e.Do])
			s.end(p, e.Do)
		case Restart, Join:
			s.Line(at + p.rec.Name + map[Action]string{Restart: " restarted", Join: " joins, a newcomer"}[e.Do])
			if err := p.launch(ctx, s); err != nil {
				return err
			}
		case Limit:
			s.Line(at + p.rec.Name + " gets another line")
			s.lines.limit(i, e.Link)
		case Unbond:
			s.Line(at + p.rec.Name + " takes its stake back")
			if err := s.ledger.unbond(ctx, p); err != nil {
				return err
			}
		}
	}
	switch e.Do {
	case ChainStop:
		s.Line(at + "the chain is killed (kill -9)")
		s.ledger.kill()
		s.c.Money.Outages = append(s.c.Money.Outages, Outage{From: s.now(), FromRound: s.top})
	case ChainStart:
		s.Line(at + "the chain is started again")
		if err := s.ledger.start(ctx); err != nil {
			return err
		}
		o := &s.c.Money.Outages[len(s.c.Money.Outages)-1]
		o.To, o.ToRound = s.now(), s.top
	case Partition:
		s.Line(at + fmt.Sprintf("partition %v", e.Groups))
		s.endCut()
		s.lines.split(e.Groups)
		select { // what was on its way when the line broke arrives
		case <-time.After(poll):
		case <-ctx.Done():
		}
		bytes, _ := s.lines.crossing()
		s.c.Cuts = append(s.c.Cuts, Cut{From: s.now(), Groups: e.Groups, Crossed: bytes})
	case Heal:
		s.Line(at + "the partition heals")
		s.endCut()
		s.lines.split(nil)
	}
	return nil
}

// endCut closes the record of the current partition, if there is one.
func (s *swarm) endCut() {
	if n := len(s.c.Cuts); n > 0 && s.c.Cuts[n-1].To == 0 {
		cut := &s.c.Cuts[n-1]
		bytes, held := s.lines.crossing()
		cut.To, cut.Healed, cut.Crossed, cut.Refused = s.now(), s.top, bytes-cut.Crossed, held
	}
}

// summary is one line on how it stands.
func (s *swarm) summary() string {
	up, roster, step := 0, 0, ""
	var train, val float64
	var valRound uint64
	for _, p := range s.peers {
		if p.proc == nil {
			continue
		}
		up++
		st := p.rec.last()
		roster = max(roster, st.Roster)
		if st.Loss > 0 && p.rec.Cheat == nil {
			train = st.Loss
		}
		if st.ValLoss > 0 && st.ValRound >= valRound {
			val, valRound = st.ValLoss, st.ValRound
		}
		if st.Round == s.top && st.InnerSteps > 0 {
			step = fmt.Sprintf(" step %d/%d", st.InnerStep, st.InnerSteps)
		}
	}
	if s.top > s.c.Rounds {
		step = fmt.Sprintf(" and %d", s.top-s.c.Rounds)
	}
	out := fmt.Sprintf("%s  round %d/%d%s  %d up, roster %d", clock(s.now()), min(s.top, s.c.Rounds), s.c.Rounds, step, up, roster)
	if train > 0 {
		out += fmt.Sprintf("  train %.3f", train)
	}
	if val > 0 {
		out += fmt.Sprintf("  val %.3f", val)
	}
	return out
}

func (s *swarm) anyDone() bool {
	return slices.ContainsFunc(s.peers, func(p *peer) bool { return p.proc != nil && p.rec.last().Done })
}
