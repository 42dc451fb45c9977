package diloco

import "time"

// Closing rounds. At the stop rule's round training is over, and the work of the last rounds has not been
// audited: were that the end, whoever cheats there would do so for nothing. So where the run audits and
// validators are in the roster, empty commits go on until no verdict about that work can be said any more
// and no case is open. No work comes in, so that nothing new is owed: the last delta is in the stop rule's commit,
// every word about it, about the words on it, and so on, must be said within the audit window of its round,
// and a case that is opened last is over a window later.

// Ends reports whether a run that trains until the commit of round stop may end with c: the first commit of the chain
// for which it holds is the run's last, and its state has the weights of the stop rule's. window is
// the audit window, 0 where nobody is audited. It is so at the latest 2·window + 1 rounds after stop, and at
// once where no validator is in the roster, who could decide anything.
func (c *Commit) Ends(stop, window uint64) bool {
	switch {
	case stop == 0 || c.Round < stop:
		return false
	case window == 0 || count(c.Roster, validator) == 0:
		return true
	}
	return c.Round >= stop+window && len(c.Cases) == 0
}

// ends is Ends for the machine's run.
func (cfg *Config) ends(c *Commit) bool {
	if cfg.AuditRate == 0 {
		return c.Ends(cfg.StopRound, 0)
	}
	return c.Ends(cfg.StopRound, cfg.AuditWindow)
}

// lastOf returns the round of the run's last commit in the chain of c, a child of parent: 0 if it goes on.
func (cfg *Config) lastOf(parent *node, c *Commit) uint64 {
	switch {
	case parent != nil && parent.last > 0:
		return parent.last
	case cfg.ends(c):
		return c.Round
	}
	return 0
}

// recess is how long a closing round lasts at least: as long as any other, and as one segment takes to replay
// at the pace of the last rounds, so that a window leaves each validator the time for as many replays as it has rounds,
// however large the model. Whoever has not seen those rounds, or sees that most have voted, waits no longer than in any other.
func (m *Machine) recess() time.Duration {
	least := m.cfg.shortest(m.head.c.Roster)
	if len(m.paces) == 0 || twoThirds(m.r.weight, m.r.total) {
		return least
	}
	return max(least, min(m.pace(), m.cfg.Deadline)/time.Duration(m.cfg.Segments))
}
