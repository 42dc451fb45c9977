package testnet

import (
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/testnet/cheat"
)

const small = "manifest: run.yaml\npeers: 3\n"

func TestConfig(t *testing.T) {
	c, err := ParseConfig([]byte(small + `
link: {rate: 20Mbit, delay: 30ms}
events:
  - {round: 3, do: kill, peers: [2], wait: 1s}
  - {at: 30s, do: restart, peers: [2]}
  - {round: 9, do: join, peers: [3, 4]}
  - {round: 10, do: partition, groups: [[0, 1, 2], [3, 4]]}
  - {round: 12, do: heal}
  - {round: 13, do: limit, peers: [1], link: {rate: 500kbit}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Link.Rate != 2.5e6 || c.Link.Delay != 30*time.Millisecond || c.Link.Rate.String() != "20Mbit" {
		t.Errorf("link %+v", c.Link)
	}
	if c.total() != 5 || !c.shaped() || c.Timeout != 10*time.Minute || !c.Baseline {
		t.Errorf("config %+v", c)
	}
	c, err = ParseConfig([]byte(small + `
chain: true
validators: [2]
cheats: [{peer: 1, kind: idle, round: 2}, {peer: 2, kind: pass-all}]
events: [{round: 3, do: chain-stop}, {round: 5, do: chain-start}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Chain || c.Cheats[0] != (Cheat{1, cheat.Idle, 2}) || c.Cheats[1].Round != 1 || c.Validators[0] != 2 {
		t.Errorf("config %+v", c)
	}
	if c.firstTrainers() != 2 {
		t.Errorf("%d trainers make the first roster, want 2", c.firstTrainers())
	}
	if c, err = ParseConfig([]byte(small)); err != nil || c.shaped() || c.firstTrainers() != 3 {
		t.Errorf("a plain swarm needs no proxies: %v", err)
	}
	c, err = ParseConfig([]byte(small + `
base: models/qwen
data: {text: text.txt}
observers: [0]
events: [{at: 1s, do: join, peers: [3]}, {round: 2, do: join, peers: [4]}]
`))
	if err != nil || c.firstTrainers() != 3 || c.Base != "models/qwen" || c.Data.Tokenizer != "" {
		t.Errorf("%+v, %v", c, err)
	}
}

// Every mistake is refused with the place where it was made.
func TestConfigErrorsNameTheKey(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"", "empty"},
		{"peers: 3\n", "manifest, run"},
		{"manifest: a\nrun: {name: b}\npeers: 1\n", "manifest, run"},
		{"manifest: a\npeers: 0\n", "peers: 0"},
		{"manifest: a\npeers: 65\n", "peers: 65"},
		{small + "pears: 4\n", `line 3: unknown key "pears"`},
		{small + "link: {rate: fast}\n", `line 3: rate "fast"`},
		{small + "link: {rate: 1kbit}\n", "link.rate"},
		{small + "link: {delay: 1h}\n", "link.delay"},
		{small + "link: {delay: soon}\n", "duration"},
		{small + "timeout: 0s\n", "timeout"},
		{small + "bootstraps: []\n", "bootstraps"},
		{small + "bootstraps: [3]\n", "no peer 3"},
		{small + "observers: [9]\n", "no peer 9"},
		{small + "expect: {val_loss: -1}\n", "expect"},
		{small + "events: [{do: kill, peers: [0]}]\n", "events[0]: kill: give exactly one of round and at"},
		{small + "events: [{round: 1, at: 3s, do: kill, peers: [0]}]\n", "exactly one"},
		{small + "events: [{round: 1, do: explode}]\n", `unknown action "explode"`},
		{small + "events: [{round: 1, do: kill}]\n", "peers: name at least one"},
		{small + "events: [{round: 1, do: kill, peers: [3]}]\n", "no peer 3 yet"},
		{small + "events: [{round: 1, do: restart, peers: [0]}]\n", "peer 0 is running by then"},
		{small + "events: [{round: 1, do: kill, peers: [0]}, {round: 2, do: stop, peers: [0]}]\n", "events[1]: stop: peers: peer 0 is down"},
		{small + "events: [{round: 1, do: join, peers: [5]}]\n", "the next newcomer is 3"},
		{small + "events: [{round: 1, do: join}]\n", "name the newcomer, [3]"},
		{small + "events: [{round: 1, do: heal}]\n", "no partition by then"},
		{small + "events: [{round: 1, do: partition, groups: [[0]]}]\n", "groups: name at least two"},
		{small + "events: [{round: 1, do: partition, groups: [[0], [0]]}]\n", "named twice"},
		{small + "events: [{round: 1, do: limit, peers: [0], link: {delay: 1m}}]\n", "link.delay"},
		{small + "events: [{round: 1, do: kill, peers: nobody}]\n", "list of peers"},
		{small + "validators: [3]\n", "validators[0]: there is no peer 3"},
		{small + "validators: [1, 1]\n", "validators[1]: peer 1 is named twice"},
		{small + "validators: [1]\nobservers: [1]\n", "validators[0]: peer 1 is an observer"},
		{small + "validators: [0, 1, 2]\n", "nobody is left to train"},
		{small + "cheats: [{peer: 3, kind: idle}]\n", "cheats[0].peer: there is no peer 3"},
		{small + "cheats: [{peer: 1, kind: nap}]\n", `cheats[0].kind: "nap" is unknown; want one of idle, lazy`},
		{small + "cheats: [{peer: 1, kind: pass-all}]\n", "cheats[0].kind: pass-all is for validators, peer 1 is none"},
		{small + "validators: [2]\ncheats: [{peer: 2, kind: idle}]\n", "cheats[0].kind: idle is for trainers"},
		{small + "cheats: [{peer: 1, kind: idle}, {peer: 1, kind: lazy}]\n", "cheats[1].peer: peer 1 cheats in one way already"},
		{small + "observers: [2]\ncheats: [{peer: 2, kind: idle}]\n", "cheats[0].peer: peer 2 is an observer"},
		{small + "cheats: [{peer: 1, kind: idle, rounds: 2}]\n", `unknown key "rounds"`},
		{small + "events: [{round: 1, do: chain-stop}]\n", "chain is not set"},
		{small + "chain: true\nevents: [{round: 1, do: chain-start}]\n", "the ledger is running by then"},
		{small + "chain: true\nevents: [{round: 1, do: chain-stop}, {round: 2, do: chain-stop}]\n", "events[1]: chain-stop: the ledger is down by then"},
		{small + strings.Repeat("#", maxConfig), "over the limit"},
	} {
		_, err := ParseConfig([]byte(c.yaml))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %q", c.yaml, err, c.want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(small)
	f.Add(small + "events: [{round: 1, do: kill, peers: [0]}]\nlink: {rate: 1Mbit}\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConfig([]byte(s))
		if err == nil && (c.total() < 1 || c.total() > MaxPeers) {
			t.Errorf("%d peers", c.total())
		}
	})
}

// The configurations that are shipped are valid.
func TestShippedConfigs(t *testing.T) {
	dir := os.DirFS("demo")
	names, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range names {
		if name == "run.yaml" {
			continue
		}
		checked++
		c, err := LoadConfig(dir, name)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, f := range []string{c.Manifest, c.Data.Text} {
			if _, err := fs.Stat(dir, f); f != "" && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if checked == 0 {
		t.Error("no configuration was found")
	}
	if _, err := LoadConfig(Demo(), DemoConfig); err != nil {
		t.Errorf("embedded: %v", err)
	}
}
