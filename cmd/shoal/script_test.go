package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/testnet"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"shoal": main})
}

// The command line as people use it, without a network: testdata/script/*.txtar.
func TestScripts(t *testing.T) { script(t, "testdata/script") }

// Swarms of real processes on loopback: testdata/swarm/*.txtar.
func TestSwarms(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a swarm of processes; leave out -short")
	}
	script(t, "testdata/swarm")
}

func script(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			e.Setenv("SHOAL_DIR", e.Getenv("WORK")+"/data")
			e.Setenv("SHOAL_PASSPHRASE", "")
			if dir == "testdata/script" {
				return nil
			}
			text, err := fs.ReadFile(testnet.Demo(), "moby-dick.txt")
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "text.txt"), text[:60_000], 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "flip": flip},
	})
}

// flip changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(name, b, 0o644))
}

// exits runs a shoal command line and checks its exit code: exits 2 shoal key frobnicate.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// Every command explains itself: a sentence, an example, no stray file.
func TestEveryCommandTeachesByExample(t *testing.T) {
	a := &app{in: os.Stdin, out: new(strings.Builder), err: new(strings.Builder)}
	for _, c := range all(a.root()) {
		if c.Name() == "help" || c.Hidden {
			continue
		}
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s: want a short description and an example", c.CommandPath())
		}
		if strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the short description ends with a period", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			line = strings.TrimSpace(line)
			if line != "" && !strings.Contains(line, "shoal") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "python") && !strings.Contains(line, "|") {
				t.Errorf("%s: the example %q shows no shoal command", c.CommandPath(), line)
			}
		}
	}
}

func all(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		out = append(out, all(sub)...)
	}
	return out
}
