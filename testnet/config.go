package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/shoalnet/shoal/testnet/cheat"
)

// Bounds of a configuration.
const (
	MaxPeers  = 64
	maxEvents = 1000
	maxConfig = 1 << 20 // bytes
)

// A Config says which swarm to start, what befalls it and what must come of it.
//
// Peers are numbered from 0. Events happen in the order given: each waits for
// its round or its time, then for Wait, and then happens.
type Config struct {
	Name string `yaml:"name"`
	// Manifest is the file of the run's manifest, beside the configuration; or
	// Run holds the manifest itself. Data CIDs may be left out of it where Data
	// says what to prepare.
	Manifest string    `yaml:"manifest"`
	Run      yaml.Node `yaml:"run"`
	Data     Data      `yaml:"data"`
	// Base is the directory of a model that the run goes on from, as it was downloaded: a
	// path from the configuration's directory, or a whole one. The manifest's model and tokenizer are
	// then those of its config.json and tokenizer.json, and may be left out.
	Base string `yaml:"base"`

	Peers      int   `yaml:"peers"`      // how many start at once
	Observers  []int `yaml:"observers"`  // who of all follow the chain without training
	Validators []int `yaml:"validators"` // who of all audit instead of training
	Bootstraps []int `yaml:"bootstraps"` // whose addresses every peer is told; default [0]
	Threads    int   `yaml:"threads"`    // each peer computes with; default 1
	Link       Link  `yaml:"link"`       // every peer's line, until an event changes it

	// Chain settles the run on a ledger: an embedded chain, a process of its own,
	// with accounts that stake for every peer.
	Chain  bool    `yaml:"chain"`
	Cheats []Cheat `yaml:"cheats"` // who of all lies, how and from when on

	Events []Event `yaml:"events"`

	Timeout time.Duration `yaml:"timeout"` // for the swarm, without baselines; default 10m
	Stall   time.Duration `yaml:"stall"`   // the longest time without a new round that still counts as alive; default 60s

	Baseline bool   `yaml:"baseline"` // train alone, too, to compare with
	Prompt   string `yaml:"prompt"`   // for the sample of generated text; empty leaves it out
	Expect   Expect `yaml:"expect"`
}

// A Cheat says that a peer lies.
type Cheat struct {
	Peer  int        `yaml:"peer" json:"peer"`
	Kind  cheat.Kind `yaml:"kind" json:"kind"`
	Round uint64     `yaml:"round" json:"round"` // the first round of its lies, from 1; default 1
}

// Data is a text to prepare and to train on.
type Data struct {
	Text      string `yaml:"text"`      // a file beside the configuration
	Tokenizer string `yaml:"tokenizer"` // "char", or a tokenizer.json beside the configuration; default: the base's, else char
	Split     string `yaml:"split"`     // what stands between its documents, which are then kept apart; empty: it is one text
	EOS       string `yaml:"eos"`       // the token that ends each; default: Split
}

// A Link limits one peer's line. Zero is no limit.
type Link struct {
	Rate  Rate          `yaml:"rate"`  // each way
	Delay time.Duration `yaml:"delay"` // one way, added on both ends' lines
}

// An Action is what an event does.
type Action string

// What may befall a swarm.
const (
	Kill      Action = "kill"      // SIGKILL: no last word, nothing flushed
	Stop      Action = "stop"      // SIGTERM: the peer leaves in order
	Restart   Action = "restart"   // the same data directory, the same command
	Join      Action = "join"      // a newcomer with the next number
	Partition Action = "partition" // no byte passes between the groups
	Heal      Action = "heal"      // the partition ends
	Limit     Action = "limit"     // a peer's line changes

	ChainStop  Action = "chain-stop"  // the ledger's process is killed
	ChainStart Action = "chain-start" // it is started again
	Unbond     Action = "unbond"      // peers take back all that they have staked, running or not
)

// An Event is one entry of the schedule.
type Event struct {
	Do    Action        `yaml:"do" json:"do"`
	Round uint64        `yaml:"round" json:"round,omitempty"` // when some peer's head has reached this round, or
	At    time.Duration `yaml:"at" json:"at,omitempty"`       // so long after the start
	Wait  time.Duration `yaml:"wait" json:"wait,omitempty"`   // and this much later

	Peers  []int   `yaml:"peers" json:"peers,omitempty"`   // whom it befalls
	Groups [][]int `yaml:"groups" json:"groups,omitempty"` // the sides of a partition; who is not named is on the first
	Link   Link    `yaml:"link" json:"link,omitzero"`      // for limit
}

// Expect are bounds on the result that become invariants of the report. Zero leaves one out.
type Expect struct {
	ValLoss         float64 `yaml:"val_loss" json:"val_loss"`                   // validation loss at most this, nats per token
	BetterThanAlone bool    `yaml:"better_than_alone" json:"better_than_alone"` // than one peer by itself
	GapToSingle     float64 `yaml:"gap_to_single" json:"gap_to_single"`         // at most this fraction above one process with the batches of all honest trainers
}

// A Rate is in bytes a second; written as "20Mbit", "500kbit", "1Gbit".
type Rate float64

var rateForm = regexp.MustCompile(`^([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*([kMG]?)bit(?:/s)?$`)

// UnmarshalYAML parses the written form.
func (r *Rate) UnmarshalYAML(n *yaml.Node) error {
	m := rateForm.FindStringSubmatch(n.Value)
	if m == nil {
		return fmt.Errorf("line %d: rate %q: want a form like 20Mbit, 500kbit or 1Gbit", n.Line, n.Value)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return fmt.Errorf("line %d: rate %q: %w", n.Line, n.Value, err)
	}
	*r = Rate(v * map[string]float64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[m[2]] / 8)
	return nil
}

// String returns the written form.
func (r Rate) String() string {
	bits := float64(r) * 8
	switch {
	case bits >= 1e9:
		return strconv.FormatFloat(bits/1e9, 'f', -1, 64) + "Gbit"
	case bits >= 1e6:
		return strconv.FormatFloat(bits/1e6, 'f', -1, 64) + "Mbit"
	}
	return strconv.FormatFloat(bits/1e3, 'f', -1, 64) + "kbit"
}

// LoadConfig reads and checks the configuration called name in fsys.
func LoadConfig(fsys fs.FS, name string) (*Config, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("testnet: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("testnet: %w", err)
	}
	c, err := ParseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// ParseConfig parses a configuration. Errors name the line or the key.
func ParseConfig(b []byte) (*Config, error) {
	if len(b) > maxConfig {
		return nil, fmt.Errorf("over the limit of %d bytes", maxConfig)
	}
	c := &Config{Bootstraps: []int{0}, Timeout: 10 * time.Minute, Stall: time.Minute, Baseline: true}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(c); errors.Is(err, io.EOF) {
		return nil, errors.New("is empty: see `shoal testnet run --help` for an example")
	} else if err != nil {
		return nil, plainYAML(err)
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

var unknownKey = regexp.MustCompile(`field (\S+) not found in type \S+`)

// plainYAML says of a decoder's errors what a person needs, without Go types.
func plainYAML(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return err
	}
	out := make([]string, len(te.Errors))
	for i, e := range te.Errors {
		e = unknownKey.ReplaceAllString(e, `unknown key "$1"`)
		e = strings.ReplaceAll(e, " into time.Duration", ": want a duration such as 30s")
		out[i] = strings.ReplaceAll(e, " into []int", ": want a list of peers such as [0, 2]")
	}
	return errors.New(strings.Join(out, "; "))
}

// validate checks what the types cannot, by playing the schedule through.
func (c *Config) validate() error {
	if c.Peers < 1 || c.Peers > MaxPeers {
		return fmt.Errorf("peers: %d is not between 1 and %d", c.Peers, MaxPeers)
	}
	inline := !c.Run.IsZero()
	if (c.Manifest == "") == !inline {
		return errors.New("manifest, run: give exactly one: the name of a manifest's file, or the manifest itself")
	}
	if c.Data.Text != "" && c.Data.Tokenizer == "" && c.Base == "" {
		c.Data.Tokenizer = "char"
	}
	if c.Threads < 0 || c.Threads > 1024 {
		return fmt.Errorf("threads: %d is not between 1 and 1024", c.Threads)
	}
	if c.Timeout <= 0 || c.Stall <= 0 {
		return errors.New("timeout, stall: must be above 0")
	}
	if len(c.Events) > maxEvents {
		return fmt.Errorf("events: %d are over the limit of %d", len(c.Events), maxEvents)
	}
	if err := c.Link.validate("link"); err != nil {
		return err
	}
	if e := c.Expect; e.ValLoss < 0 || e.GapToSingle < 0 {
		return errors.New("expect: bounds must not be negative")
	}
	s := schedule{up: map[int]bool{}, total: c.Peers, chain: c.Chain, chainUp: c.Chain}
	for i := range c.Peers {
		s.up[i] = true
	}
	for i, e := range c.Events {
		if err := s.play(e); err != nil {
			return fmt.Errorf("events[%d]: %s: %w", i, e.Do, err)
		}
	}
	for _, l := range []struct {
		key   string
		peers []int
	}{{"bootstraps", c.Bootstraps}, {"observers", c.Observers}, {"validators", c.Validators}} {
		for i, p := range l.peers {
			if p < 0 || p >= s.total {
				return fmt.Errorf("%s[%d]: there is no peer %d, only 0 to %d", l.key, i, p, s.total-1)
			}
			if slices.Contains(l.peers[:i], p) {
				return fmt.Errorf("%s[%d]: peer %d is named twice", l.key, i, p)
			}
		}
	}
	for i, p := range c.Validators {
		if slices.Contains(c.Observers, p) {
			return fmt.Errorf("validators[%d]: peer %d is an observer, too", i, p)
		}
	}
	if len(c.Validators)+len(c.Observers) >= s.total {
		return errors.New("validators: nobody is left to train")
	}
	for i := range c.Cheats {
		if err := c.validateCheat(i, s.total); err != nil {
			return fmt.Errorf("cheats[%d].%w", i, err)
		}
	}
	if len(c.Bootstraps) == 0 {
		return errors.New("bootstraps: name at least one peer")
	}
	return nil
}

func (c *Config) validateCheat(i, total int) error {
	x := &c.Cheats[i]
	x.Round = max(x.Round, 1)
	if x.Peer < 0 || x.Peer >= total {
		return fmt.Errorf("peer: there is no peer %d, only 0 to %d", x.Peer, total-1)
	}
	if slices.ContainsFunc(c.Cheats[:i], func(y Cheat) bool { return y.Peer == x.Peer }) {
		return fmt.Errorf("peer: peer %d cheats in one way already", x.Peer)
	}
	fact, ok := cheat.FactOf(x.Kind)
	switch {
	case !ok:
		return fmt.Errorf("kind: %q is unknown; want one of %s", x.Kind, cheat.Names())
	case slices.Contains(c.Observers, x.Peer):
		return fmt.Errorf("peer: peer %d is an observer and has nothing to cheat with", x.Peer)
	case fact.Validator != slices.Contains(c.Validators, x.Peer):
		return fmt.Errorf("kind: %s is for %s, peer %d is none", x.Kind, map[bool]string{true: "validators", false: "trainers"}[fact.Validator], x.Peer)
	}
	return nil
}

func (l Link) validate(where string) error {
	if l.Delay < 0 || l.Delay > 10*time.Second {
		return fmt.Errorf("%s.delay: %s is not between 0 and 10s", where, l.Delay)
	}
	if l.Rate != 0 && l.Rate < 1000 {
		return fmt.Errorf("%s.rate: %s is below 8kbit", where, l.Rate)
	}
	return nil
}

// A schedule is the state that a list of events leads to.
type schedule struct {
	up    map[int]bool // by peer; absent: never started
	total int          // peers that ever started
	split bool

	chain, chainUp bool // there is a ledger; it runs
}

func (s *schedule) play(e Event) error {
	if (e.Round == 0) == (e.At == 0) {
		return errors.New("give exactly one of round and at, above 0")
	}
	if e.At < 0 || e.Wait < 0 {
		return errors.New("at, wait: must not be negative")
	}
	needs := func(up bool) error {
		if len(e.Peers) == 0 {
			return errors.New("peers: name at least one")
		}
		for _, p := range e.Peers {
			if was, known := s.up[p]; !known {
				return fmt.Errorf("peers: there is no peer %d yet, only 0 to %d", p, s.total-1)
			} else if was != up {
				return fmt.Errorf("peers: peer %d is %s by then", p, map[bool]string{true: "running", false: "down"}[was])
			}
			s.up[p] = !up
		}
		return nil
	}
	switch e.Do {
	case Kill, Stop:
		return needs(true)
	case Restart:
		return needs(false)
	case Join:
		for _, p := range e.Peers {
			if p != s.total {
				return fmt.Errorf("peers: the next newcomer is %d, not %d", s.total, p)
			}
			if s.total++; s.total > MaxPeers {
				return fmt.Errorf("peers: over the limit of %d in all", MaxPeers)
			}
			s.up[p] = true
		}
		if len(e.Peers) == 0 {
			return fmt.Errorf("peers: name the newcomer, [%d]", s.total)
		}
	case Partition:
		seen := map[int]bool{}
		for _, g := range e.Groups {
			for _, p := range g {
				if p < 0 || p >= MaxPeers || seen[p] {
					return fmt.Errorf("groups: peer %d is out of range or named twice", p)
				}
				seen[p] = true
			}
		}
		if len(e.Groups) < 2 {
			return errors.New("groups: name at least two, such as [[0, 1], [2, 3]]")
		}
		s.split = true
	case Heal:
		if !s.split {
			return errors.New("there is no partition by then")
		}
		s.split = false
	case ChainStop, ChainStart:
		if !s.chain {
			return errors.New("the swarm has no ledger: chain is not set")
		}
		if s.chainUp != (e.Do == ChainStop) {
			return fmt.Errorf("the ledger is %s by then", map[bool]string{true: "running", false: "down"}[s.chainUp])
		}
		s.chainUp = !s.chainUp
	case Unbond:
		if !s.chain || !s.chainUp {
			return errors.New("the swarm has no ledger by then")
		}
		for _, p := range e.Peers {
			if _, known := s.up[p]; !known {
				return fmt.Errorf("peers: there is no peer %d yet", p)
			}
		}
	case Limit:
		for _, p := range e.Peers {
			if _, known := s.up[p]; !known {
				return fmt.Errorf("peers: there is no peer %d yet", p)
			}
		}
		return e.Link.validate("link")
	default:
		return fmt.Errorf("do: unknown action %q; want kill, stop, restart, join, partition, heal, limit, chain-stop, chain-start or unbond", e.Do)
	}
	return nil
}

// total returns how many peers the schedule ever starts.
func (c *Config) total() int {
	n := c.Peers
	for _, e := range c.Events {
		if e.Do == Join {
			n += len(e.Peers)
		}
	}
	return n
}

// firstTrainers is how many trainers there are before the first round.
func (c *Config) firstTrainers() int {
	last := c.Peers
	for _, e := range c.Events {
		if e.Round > 0 { // there is no round without a roster
			break
		}
		if e.Do == Join {
			last += len(e.Peers)
		}
	}
	n := 0
	for i := range last {
		if !slices.Contains(c.Validators, i) && !slices.Contains(c.Observers, i) {
			n++
		}
	}
	return n
}

// shaped reports whether the peers' lines need proxies at all.
func (c *Config) shaped() bool {
	return c.Link != Link{} || slices.ContainsFunc(c.Events, func(e Event) bool {
		return e.Do == Partition || e.Do == Limit
	})
}
