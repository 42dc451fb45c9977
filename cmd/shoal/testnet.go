package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/testnet"
)

func (a *app) testnetCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "testnet",
		Short: "Run a swarm on this machine, with faults, and report on it",
		Example: `  shoal testnet run --out demo-out                      # the demo: Moby-Dick
  shoal testnet run --config my.yaml --out my-out
  shoal testnet report demo-out
  shoal testnet zoo --out zoo-out                       # every cheat, caught`,
	}, a.testnetRunCmd(), a.testnetReportCmd(), a.zooCmd(), a.baselineCmd())
}

func (a *app) testnetRunCmd() *cobra.Command {
	var config, out string
	var baseline bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Start the peers, let things happen to them, check what came of it",
		Long: `Starts real peers, each a process with its own data directory, applies a schedule of
kills, restarts, newcomers, partitions and slow lines, and checks that the protocol's
invariants held. Exit code 1 says that one did not. Writes report.html, report.json and
the model. Without --config it runs the demo: four peers train on Moby-Dick, two
validators audit them, one of the four cheats and is caught, one is killed and comes
back, one joins on the way, and a chain of their own pays the honest.

A configuration is YAML:

  name: audits, one cheat, one partition
  manifest: run.yaml            # beside this file; or run: with the manifest itself
  data: {text: corpus.txt}      # prepared and named in the manifest
  base: Qwen2.5-0.5B/           # a model that the run goes on from; the manifest needs no model then
  peers: 6
  validators: [4, 5]            # audit instead of training
  chain: true                   # stake, pay and slash on an embedded chain
  cheats:                       # from that round on; shoal testnet zoo knows the kinds
    - {peer: 3, kind: idle, round: 2}
  link: {rate: 50Mbit, delay: 20ms}
  events:                       # in the order in which they happen
    - {round: 4, do: partition, groups: [[0, 1, 3, 4, 5], [2]]}
    - {round: 8, do: heal}
    - {round: 9, do: kill, peers: [1], wait: 500ms}
    - {round: 12, do: restart, peers: [1]}
    - {round: 14, do: chain-stop}     # kill -9; chain-start starts it again
    - {round: 18, do: chain-start}
    - {round: 18, do: unbond, peers: [3]}
    - {at: 90s, do: join, peers: [6]}
  timeout: 10m`,
		Example: `  shoal testnet run --out demo-out
  shoal testnet run --config my.yaml --out my-out --baseline=false`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, root, name := testnet.Demo(), "", testnet.DemoConfig
			if config != "" {
				root, name = filepath.Dir(config), filepath.Base(config)
				files = os.DirFS(root)
			}
			return a.runTestnet(cmd, files, root, name, out, baseline)
		},
	}
	c.Flags().StringVar(&config, "config", "", "configuration (default: the demo)")
	c.Flags().StringVar(&out, "out", "testnet-out", "directory for everything; an earlier testnet there is replaced")
	c.Flags().BoolVar(&baseline, "baseline", true, "also train by oneself, to compare with (as the configuration says)")
	return c
}

func (a *app) runTestnet(cmd *cobra.Command, files fs.FS, root, name, out string, baseline bool) error {
	cfg, err := testnet.LoadConfig(files, name)
	if err != nil {
		return advise(err, "`shoal testnet run --help` explains the format")
	}
	if cmd.Flags().Changed("baseline") {
		cfg.Baseline = baseline
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	scr := a.screen()
	start := time.Now()
	r, err := testnet.Run(cmd.Context(), testnet.Options{
		Config: cfg, Files: files, Root: root, Dir: out, Exe: exe, Command: strings.Join(append([]string{"shoal"}, os.Args[1:]...), " "),
		Line: scr.line, Now: func(s string) { scr.now(s, 10*time.Second) },
	})
	scr.clear()
	if err != nil {
		return err
	}
	return a.tellReport(r, out, time.Since(start))
}

func (a *app) testnetReportCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "report DIR",
		Short:   "Make report.json and report.html again from what a testnet recorded",
		Example: "  shoal testnet report demo-out",
		Args:    exactly("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := testnet.Rebuild(args[0])
			if err != nil {
				return err
			}
			return a.tellReport(r, args[0], 0)
		},
	}
}

func (a *app) zooCmd() *cobra.Command {
	var out, only string
	c := &cobra.Command{
		Use:   "zoo",
		Short: "Let real peers cheat in every known way, and see each of them caught",
		Long: `Runs swarms of real peers on this machine, one after another, in each of which some
peers cheat, and prints in which round the audits caught them, which bound the
formula states, and whether the ledger took their stake. It then compares the
final loss of runs with and without cheats. It fails where a cheat was not caught
in time, where an honest peer was convicted, or where cheats cost more than 3 %.`,
		Example: `  shoal testnet zoo --out zoo-out
  shoal testnet zoo --only validators       # only the swarms whose names begin so`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			scr := a.screen()
			z, err := testnet.RunZoo(cmd.Context(), testnet.Options{
				Dir: out, Exe: exe, Command: strings.Join(append([]string{"shoal"}, os.Args[1:]...), " "),
				Line: scr.line, Now: func(s string) { scr.now(s, 10*time.Second) },
			}, only)
			scr.clear()
			if err != nil {
				return err
			}
			if err := a.show(z, z.Table()); err != nil {
				return err
			}
			if len(z.Broken) > 0 {
				return advise(errors.New("broken: "+strings.Join(z.Broken, "\n  ")), "see the reports in %s", out)
			}
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", "zoo-out", "directory for everything")
	c.Flags().StringVar(&only, "only", "", "run only the swarms whose names begin so: trainers, validators, withdrawn, last-rounds, honest, loss")
	return c
}

// tellReport prints what came of a testnet. A broken invariant is an error.
func (a *app) tellReport(r *testnet.Report, dir string, took time.Duration) error {
	if a.json {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return err
		}
	} else {
		a.printReport(r, dir, took)
	}
	var broken []string
	for _, i := range r.Invariants {
		if !i.OK {
			broken = append(broken, i.Name)
		}
	}
	if len(broken) > 0 {
		return advise(errors.New("broken: "+strings.Join(broken, ", ")), "see %s and the logs in %s", filepath.Join(dir, "report.html"), filepath.Join(dir, "logs"))
	}
	return nil
}

func (a *app) printReport(r *testnet.Report, dir string, took time.Duration) {
	p := func(format string, args ...any) { fmt.Fprintln(a.out, printable(fmt.Sprintf(format, args...))) }
	p("")
	for _, i := range r.Invariants {
		p("  %s %-30s %s", map[bool]string{true: "ok    ", false: "BROKEN"}[i.OK], i.Name, i.Detail)
	}
	p("")
	for _, s := range r.Peers {
		p("  %-4s …%s  %2d rounds contributed  final %d …%s  %s", s.Name, s.ID.Short(), s.Contributed, s.FinalRound, s.FinalCommit.Short(), s.Fate)
	}
	p("")
	if r.ValLoss != nil {
		p("  validation loss   %.4f nats per token", *r.ValLoss)
	}
	if r.SingleValLoss != nil {
		p("  one process, all  %.4f", *r.SingleValLoss)
	}
	if r.AloneValLoss != nil {
		p("  one peer alone    %.4f", *r.AloneValLoss)
	}
	if r.SampleText != "" {
		p("\n  the model writes:\n")
		for line := range strings.Lines(r.SampleText) {
			p("    %s", strings.TrimRight(line, "\n"))
		}
	}
	p("")
	if r.ModelDir != "" {
		p("  model    %s", filepath.Join(dir, r.ModelDir))
	}
	p("  report   %s", filepath.Join(dir, "report.html"))
	p("           %s", filepath.Join(dir, "report.json"))
	if took > 0 {
		p("  in %s", took.Round(time.Second))
	}
}
