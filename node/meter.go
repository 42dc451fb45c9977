package node

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// meter gathers what the goroutines of a node have to show. It decides nothing.
type meter struct {
	mu          sync.Mutex // guards the following
	step, steps uint64
	loss        float64 // mean of the phase so far
	tokens      uint64  // of all rounds
	rate        float64 // tokens a second, smoothed
	resumedAt   uint64
	contributed uint64
	valLoss     float64
	valRound    uint64
	rejections  map[string]uint64
	troubles    map[string]string
	checkpoint  Transfer
	clock       clock
	audits      map[string]uint64 // by finding
	auditing    time.Duration     // in them
	suspicions  []Suspicion       // the latest
	since       time.Time
}

// clock splits time: in inner steps; outside of them while a transfer or merge
// was under way; neither.
type clock struct {
	since    time.Time // the last change of what follows
	computes int       // inner phases under way, 0 or 1
	moves    int       // transfers and merges under way
	compute  time.Duration
	exchange time.Duration
	wait     time.Duration
}

func newMeter(now time.Time) *meter {
	return &meter{
		rejections: map[string]uint64{},
		troubles:   map[string]string{},
		clock:      clock{since: now},
		audits:     map[string]uint64{},
		since:      now,
	}
}

// tick books the time since the last change.
func (c *clock) tick(now time.Time) {
	d := now.Sub(c.since)
	c.since = now
	switch {
	case c.computes > 0:
		c.compute += d
	case c.moves > 0:
		c.exchange += d
	default:
		c.wait += d
	}
}

// lap returns the times since the last lap and starts a new one.
func (m *meter) lap(now time.Time) (compute, exchange, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &m.clock
	c.tick(now)
	compute, exchange, wait = c.compute, c.exchange, c.wait
	c.compute, c.exchange, c.wait = 0, 0, 0
	return compute, exchange, wait
}

// move counts a transfer or merge as under way until the function returned is called.
func (m *meter) move() (done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock.tick(time.Now())
	m.clock.moves++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.clock.tick(time.Now())
		m.clock.moves--
	}
}

// begin, advance and end frame an inner phase.
func (m *meter) begin(step, steps uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.step, m.steps = step, steps
	m.clock.tick(time.Now())
	m.clock.computes++
}

func (m *meter) advance(at phaseHead, tokens uint64, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.step, m.tokens = at.Step, at.Total
	m.loss = at.LossSum / float64(at.Step)
	if s := took.Seconds(); s > 0 {
		r := float64(tokens) / s
		if m.rate == 0 {
			m.rate = r
		}
		m.rate += (r - m.rate) / 8
	}
}

func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock.tick(time.Now())
	m.clock.computes--
}

func (m *meter) resumed(step uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resumedAt = step
}

func (m *meter) setContributed(n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.contributed = n
}

func (m *meter) evaluated(round uint64, loss float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.valRound, m.valLoss = round, loss
}

// maxReasons bounds the distinct reasons counted.
const maxReasons = 64

// reject counts something that was refused, by reason.
func (m *meter) reject(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.rejections[reason]; !ok && len(m.rejections) >= maxReasons {
		reason = "other"
	}
	m.rejections[reason]++
}

// trouble says what part cannot go on and why; clear says that it can again.
func (m *meter) trouble(part string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.troubles[part] = err.Error()
}

func (m *meter) clear(part string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.troubles, part)
}

// transfer returns what notes the progress of a fetch that begins now: of a state, or
// of the base.
func (m *meter) transfer(base bool) func(done, total int64) {
	var p pace
	return func(done, total int64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.checkpoint = Transfer{done, total, p.rate(done, time.Now()), base}
	}
}

// pace is the speed of the last few seconds: what was there already when a fetch began
// goes by at the speed of the disk.
type pace struct {
	done  int64
	since time.Time
	known float64 // bytes a second, of the window before; 0 before there was one
}

const paceWindow = 5 * time.Second

func (p *pace) rate(done int64, now time.Time) float64 {
	if p.since.IsZero() || done < p.done {
		*p = pace{done: done, since: now}
	}
	d := now.Sub(p.since)
	if d <= 0 {
		return p.known
	}
	r := float64(done-p.done) / d.Seconds()
	if d >= paceWindow {
		*p = pace{done, now, r}
	} else if p.known > 0 {
		return p.known
	}
	return r
}

// fill writes what the meter knows into a status.
func (m *meter) fill(s *Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.InnerStep, s.InnerSteps = m.step, m.steps
	s.Loss, s.TokensPerS, s.Tokens = m.loss, m.rate, m.tokens
	s.ValLoss, s.ValRound = m.valLoss, m.valRound
	s.RoundsContributed, s.Resumed = m.contributed, m.resumedAt
	s.Checkpoint = m.checkpoint
	s.Audits, s.Suspects = maps.Clone(m.audits), slices.Clone(m.suspicions)
	if t := time.Since(m.since); t > 0 {
		s.AuditShare = float64(m.auditing) / float64(t)
	}
	for k, n := range m.rejections {
		s.Rejections[k] += n
	}
	var lines []string
	for _, part := range slices.Sorted(maps.Keys(m.troubles)) {
		lines = append(lines, part+": "+m.troubles[part])
	}
	s.Trouble = strings.Join(lines, "; ")
}

// audited books the time of one audit, found what came of it.
func (m *meter) audited(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.auditing += d
}

func (m *meter) found(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.audits[what]++
}

// maxSuspicions bounds those that are shown.
const maxSuspicions = 32

// suspect notes whom a screen finds odd, and counts it as found.
func (m *meter) suspect(s Suspicion, what string) {
	m.found(what)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.suspicions = append(m.suspicions, s)
	m.suspicions = m.suspicions[max(0, len(m.suspicions)-maxSuspicions):]
}
