package testnet

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/testnet/cheat"
)

// zooSwarm is a swarm of the zoo as a configuration that anybody can run. It has
// the audit rate of a manifest by default, or a higher one where it says so. With the window of 8 that is the
// default a round would last 2.5 s at least, with 12 half of that (audit.Shortest).
const zooSwarm = `# Made by shoal testnet zoo.
name: %s
run:
  version: 1
  name: zoo
  licence: CC0-1.0
  model:
    config:
      hidden_size: 32
      intermediate_size: 64
      num_hidden_layers: 2
      num_attention_heads: 2
      vocab_size: 1
      max_position_embeddings: 32
      tie_word_embeddings: true
    seed: 1
  inner: {lr: 0.006, min_lr: 0.0006, warmup: 20, batch: 4, sequence: 32}
  round: {inner_steps: 16, deadline: 20s, drop_after: 6}
  verification: {audit_rate: %d, segments: 4, window: 12}
  rewards: {trainers: 8000, validators: 2000}
  admission: {min_peers: %d%s}
  stop: {rounds: %d}
data: {text: moby-dick.txt, tokenizer: char}
peers: %d
validators: [%s]
chain: %t
cheats: [%s]
events: [%s]
baseline: false
timeout: 15m
stall: 2m
`

// ZooRate is the audit rate of the zoo: a manifest's default, in parts per 10,000.
const ZooRate = 1000

// A cage is one swarm of the zoo: trainers first, then validators.
type cage struct {
	name                 string
	trainers, validators int
	rate, rounds         uint64
	chain                bool
	liars                []Cheat
	staked               bool     // nobody is let in without stake, nor stays without it
	events               []string // of the configuration
}

// cages puts several cheats into a swarm where nobody can mistake one for
// another, each begun after some honest rounds.
func cages() (out []cage) {
	const (
		perSwarm = 4
		honest   = 4
	)
	var kinds [2][]cheat.Kind
	for _, f := range cheat.Facts {
		i := map[bool]int{false: 0, true: 1}[f.Validator]
		kinds[i] = append(kinds[i], f.Kind)
	}
	for n := 0; n < len(kinds[0]); n += perSwarm {
		part := kinds[0][n:min(n+perSwarm, len(kinds[0]))]
		c := cage{name: fmt.Sprintf("trainers-%d", n/perSwarm+1), trainers: honest + len(part), validators: 4, rate: ZooRate, rounds: 90, chain: true}
		for i, k := range part {
			c.liars = append(c.liars, Cheat{honest + i, k, 3})
		}
		out = append(out, c)
	}
	// Two thirds of all validators must stay honest.
	for n := 0; n < len(kinds[1]); n += 2 {
		part := kinds[1][n:min(n+2, len(kinds[1]))]
		c := cage{name: fmt.Sprintf("validators-%d", n/2+1), trainers: 4, validators: 5 + len(part), rate: ZooRate, rounds: 60, chain: true}
		if slices.Contains(part, cheat.Silent) {
			c.rounds = 90 // ten audits missed, of some two in five rounds
		}
		for i, k := range part {
			c.liars = append(c.liars, Cheat{c.trainers + 5 + i, k, 3})
		}
		out = append(out, c)
	}
	// Two withhold what audits ask for, and take their stake back before they can be convicted: one
	// stays, and is removed from the roster for that; the other has been killed.
	out = append(out, cage{
		name: "withdrawn", trainers: honest + 2, validators: 4, rate: 5000, rounds: 80, chain: true, staked: true,
		// They lie twice only, so that the first cases have to do.
		liars: []Cheat{{honest, cheat.Withhold, 8}, {honest + 1, cheat.Withhold, 4}},
		events: []string{
			fmt.Sprintf("{round: 5, do: unbond, peers: [%d]}", honest),
			fmt.Sprintf("{round: 7, do: kill, peers: [%d]}", honest+1), fmt.Sprintf("{round: 7, do: unbond, peers: [%d]}", honest+1),
		},
	})
	// Two are honest until shortly before the stop rule's round: what they do then is audited in closing rounds.
	out = append(out, cage{
		name: "last-rounds", trainers: honest + 2, validators: 4, rate: 8000, rounds: 20, chain: true,
		liars: []Cheat{{honest, cheat.Idle, 18}, {honest + 1, cheat.Withhold, 17}},
	})
	// Everything is audited by everybody, and everybody is honest.
	return append(out, cage{name: "honest", trainers: 4, validators: 4, rate: 10_000, rounds: 60})
}

// losses are pairs of runs: the honest by themselves, and with cheats among them.
func losses() (out [][2]cage) {
	for _, v := range []struct{ all, bad int }{{4, 1}, {8, 2}} {
		with := cage{name: fmt.Sprintf("loss-%d-of-%d", v.bad, v.all), trainers: v.all, validators: 2, rate: 5000, rounds: 40}
		for i := range v.bad {
			with.liars = append(with.liars, Cheat{v.all - 1 - i, cheat.Flip, 2})
		}
		without := with
		without.name, without.trainers, without.liars = with.name+"-without", v.all-v.bad, nil
		out = append(out, [2]cage{with, without})
	}
	return out
}

// config is the cage's configuration.
func (c *cage) config() string {
	var validators, liars []string
	for i := range c.validators {
		validators = append(validators, fmt.Sprint(c.trainers+i))
	}
	for _, l := range c.liars {
		liars = append(liars, fmt.Sprintf("{peer: %d, kind: %s, round: %d}", l.Peer, l.Kind, l.Round))
	}
	staked := ""
	if c.staked {
		staked = `, kind: stake, min_stake: "` + strconv.Itoa(trainerStake) + strings.Repeat("0", 18) + `"`
	}
	return fmt.Sprintf(zooSwarm, c.name, c.rate, c.trainers, staked, c.rounds, c.trainers+c.validators, strings.Join(validators, ", "), c.chain, strings.Join(liars, ", "), strings.Join(c.events, ", "))
}

// A Zoo is what came of all cheats: zoo.json.
type Zoo struct {
	Rows          []ZooRow  `json:"rows"`
	Losses        []ZooLoss `json:"losses"`
	HonestAudits  int       `json:"honest_audits"`  // verdicts of honest validators about honest work
	HonestSlashed int       `json:"honest_slashed"` // must be 0
	FalseBound    float64   `json:"false_bound"`    // 95 % bound on the chance that an audit of honest work convicts
	Broken        []string  `json:"broken"`         // invariants, by swarm
}

// A ZooRow is one cheat.
type ZooRow struct {
	CheatSummary
	Swarm string `json:"swarm"`
	After uint64 `json:"after"` // rounds from its first lie to the conviction
}

// A ZooLoss compares two runs.
type ZooLoss struct {
	Name    string  `json:"name"`
	With    float64 `json:"with"`    // validation loss, nats per token
	Without float64 `json:"without"` // of the honest by themselves
	Gap     float64 `json:"gap"`     // With / Without - 1
}

// lossBound is how much cheats may cost.
const lossBound = 0.03

// RunZoo runs every cheat in swarms of real processes, one after another, each in a directory
// below opt.Dir, and writes zoo.json. Only is a prefix of names of swarms; empty is all.
func RunZoo(ctx context.Context, opt Options, only string) (*Zoo, error) {
	if err := os.MkdirAll(opt.Dir, 0o755); err != nil {
		return nil, err
	}
	z := &Zoo{Rows: []ZooRow{}, Losses: []ZooLoss{}, Broken: []string{}}
	if !slices.ContainsFunc(cages(), func(c cage) bool { return strings.HasPrefix(c.name, only) }) &&
		!slices.ContainsFunc(losses(), func(p [2]cage) bool { return strings.HasPrefix(p[0].name, only) }) {
		return nil, fmt.Errorf("zoo: no swarm's name begins with %q", only)
	}
	for _, c := range cages() {
		if !strings.HasPrefix(c.name, only) {
			continue
		}
		if _, err := z.run(ctx, opt, c); err != nil {
			return nil, err
		}
	}
	for _, pair := range losses() {
		if !strings.HasPrefix(pair[0].name, only) {
			continue
		}
		var got [2]float64
		for i, c := range pair {
			r, err := z.run(ctx, opt, c)
			if err != nil {
				return nil, err
			}
			if got[i] = math.NaN(); r.ValLoss != nil {
				got[i] = *r.ValLoss
			}
		}
		l := ZooLoss{pair[0].name, got[0], got[1], got[0]/got[1] - 1}
		if !(l.Gap <= lossBound) {
			z.Broken = append(z.Broken, fmt.Sprintf("%s: validation loss %.4f, without the cheats %.4f", l.Name, l.With, l.Without))
		}
		z.Losses = append(z.Losses, l)
	}
	if z.HonestAudits > 0 {
		z.FalseBound = 3 / float64(z.HonestAudits) // the rule of three
	}
	b, err := json.MarshalIndent(z, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("zoo: %w", err)
	}
	return z, os.WriteFile(filepath.Join(opt.Dir, "zoo.json"), append(b, '\n'), 0o644)
}

// run runs one cage and takes its report in.
func (z *Zoo) run(ctx context.Context, opt Options, c cage) (*Report, error) {
	text := c.config()
	cfg, err := ParseConfig([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	if err := os.WriteFile(filepath.Join(opt.Dir, c.name+".yaml"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	opt.Line(fmt.Sprintf("swarm %s: %d trainers, %d validators, %d cheats", c.name, c.trainers, c.validators, len(c.liars)))
	opt.Config, opt.Files, opt.Dir = cfg, Demo(), filepath.Join(opt.Dir, c.name)
	r, err := Run(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	for _, s := range r.Cheats {
		row := ZooRow{CheatSummary: s, Swarm: c.name}
		if s.Caught > 0 {
			row.After = s.Caught - min(s.Caught, s.From)
		}
		z.Rows = append(z.Rows, row)
	}
	z.HonestAudits += r.HonestAudits
	z.HonestSlashed += r.SlashedHonest
	for _, i := range r.Invariants {
		if !i.OK {
			z.Broken = append(z.Broken, c.name+": "+i.Name+": "+i.Detail)
		}
	}
	return r, nil
}

// Table is the zoo for people.
func (z *Zoo) Table() string {
	var b strings.Builder
	word := func(n uint64) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprint(n)
	}
	if len(z.Rows) > 0 {
		fmt.Fprintf(&b, "%-14s %-36s %12s %7s %13s %8s\n", "cheat", "", "caught after", "bound", "chance/round", "slashed")
	}
	for _, r := range z.Rows {
		after := "never"
		if r.Caught > 0 {
			after = fmt.Sprintf("%d rounds", r.After)
		}
		slashed := "no"
		if r.Slashed {
			slashed = string(r.SlashedAmount)
		}
		fmt.Fprintf(&b, "%-14s %-36s %12s %7s %12.1f%% %8s\n", r.Kind, r.What, after, word(r.Bound-min(r.Bound, r.From)), 100*r.Chance, slashed)
	}
	for _, l := range z.Losses {
		fmt.Fprintf(&b, "%-51s validation loss %.4f, without them %.4f: %+.1f %%\n", l.Name, l.With, l.Without, 100*l.Gap)
	}
	fmt.Fprintf(&b, "honest: %d audits of their work, %d slashed; an audit convicts the honest with probability below %.2g (95 %%)\n", z.HonestAudits, z.HonestSlashed, z.FalseBound)
	return b.String()
}
