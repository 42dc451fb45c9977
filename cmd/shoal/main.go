// Command shoal joins, publishes and checks training runs of the Shoal swarm.
//
// It is the only place where the parts are wired: the libp2p host, the block
// store and the training engine become the ports of package node.
//
// Output that a script may want goes to standard output, everything said to a
// person to standard error, with a "shoal: " prefix for errors. Exit codes: 0 is success, 1 a
// failure, 2 wrong usage; a check that could not be made is 3 where that differs from its failing;
// what a signal cut short is 128 and its number.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run executes one command line and returns its exit code.
func run(args []string, in *os.File, out, errw io.Writer) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	end := interrupts(cancel, errw)

	told := &kept{Writer: out}
	a := &app{in: in, out: told, err: errw}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(told)
	root.SetErr(errw)
	err := told.lost(root.ExecuteContext(ctx))
	flags := args[:slices.Index(append(slices.Clone(args), "--"), "--")]
	if err != nil && slices.Contains(flags, "--json") {
		a.json = true // also where what is wrong stands before it
	}
	sig := end()
	if err == nil {
		return 0
	}
	if sig != nil && errors.Is(err, context.Canceled) {
		err = exitError{interrupted{err}, 128 + int(sig.(syscall.Signal))}
	}
	a.report(err)
	var use usageError
	if errors.As(err, &use) || strings.HasPrefix(err.Error(), "unknown command") {
		return 2
	}
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return 1
}

// interrupted is an error that came of a signal.
type interrupted struct{ error }

func (e interrupted) Error() string {
	return strings.ReplaceAll(e.error.Error(), context.Canceled.Error(), "interrupted")
}
func (e interrupted) Unwrap() error { return e.error }

// echo is for how long a second signal is the first again: timeout(1) sends one to the process and
// one to its group.
const echo = 100 * time.Millisecond

// interrupts cancels on the first SIGINT or SIGTERM, so that what runs may
// leave in order, says so where that lasts, and ends the process at once on the second. end
// stops it and returns the signal that came, if any.
func interrupts(cancel func(), errw io.Writer) (end func() os.Signal) {
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	over, came := make(chan struct{}), make(chan os.Signal, 1)
	go func() {
		var first os.Signal
		var at time.Time
		var late <-chan time.Time
		for {
			select {
			case <-over:
				came <- first
				return
			case <-late:
				fmt.Fprintln(errw, "shoal: ending; Ctrl-C once more ends it at once")
			case sig := <-c:
				if first != nil && time.Since(at) < echo {
					continue
				}
				if first != nil {
					fmt.Fprintln(errw, "shoal: stopped at once")
					os.Exit(128 + int(sig.(syscall.Signal)))
				}
				first, at, late = sig, time.Now(), time.After(2*time.Second)
				cancel()
			}
		}
	}()
	return func() os.Signal {
		signal.Stop(c)
		close(over)
		return <-came
	}
}

// An app is one invocation: its streams and the flags that all commands share.
type app struct {
	in       *os.File
	out, err io.Writer

	dir      string
	json     bool
	logLevel string
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "shoal",
		Short: "Train open models in a swarm without a leader",
		Long: `Shoal trains open models over the public internet: one binary, anyone's
hardware, no coordinator. Every peer holds the same weights under one CID, and
anyone can recompute a model's whole history, bit for bit.`,
		Example: `  # lend this machine to a run, by its CID or by a name heard in the swarm
  shoal join moby --bootstrap /ip4/203.0.113.7/udp/4747/quic-v1/p2p/16Uiu2…

  # publish a run of your own and take part in it
  shoal manifest init > run.yaml
  shoal data prepare corpus.txt --tokenizer char --into run.yaml
  shoal publish run.yaml --join

  # what it does, and what came of it
  shoal status
  shoal export moby model/
  shoal generate model/ -p "Call me "
  shoal lineage verify model/

  # four peers on this machine, one of them killed on the way
  shoal testnet run --out demo-out`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.prepare(cmd)
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if m := negative.FindStringSubmatch(err.Error()); m != nil {
			return usageError{fmt.Errorf("%s is read as a flag, and no argument is below 0", m[1]), "see `" + cmd.CommandPath() + " --help`"}
		}
		return usageError{plain(err), "see `" + cmd.CommandPath() + " --help`"}
	})
	f := root.PersistentFlags()
	f.StringVar(&a.dir, "dir", "", "data directory: key, blocks, journal (default $SHOAL_DIR or ~/.shoal)")
	f.BoolVar(&a.json, "json", false, "print JSON, for scripts")
	f.StringVar(&a.logLevel, "log-level", "", "debug, info, warn or error (default warn)")
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Runs:"},
		&cobra.Group{ID: "model", Title: "Models:"},
		&cobra.Group{ID: "here", Title: "This peer:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", a.joinCmd(), a.publishCmd(), a.runsCmd(), a.manifestCmd(), a.dataCmd(), a.auditCmd(), a.testnetCmd())
	add("model", a.exportCmd(), a.lineageCmd(), a.generateCmd(), a.evalCmd(), a.tokenizeCmd(), a.trainCmd(), a.convertCmd(), a.toplocCmd())
	root.AddGroup(&cobra.Group{ID: "money", Title: "Ledger:"})
	add("money", a.moneyCmds()...)
	add("here", a.statusCmd(), a.keyCmd(), a.benchCmd(), a.workerCmd(), a.versionCmd())
	return root
}

// negative is what pflag says of a negative number among the arguments.
var negative = regexp.MustCompile(`^unknown shorthand flag: '[0-9.]' in (-[0-9.]\S*)$`)

// strconvs is what strconv says of a flag's value, by the function that reads it.
var strconvs = regexp.MustCompile(`strconv\.(ParseInt|ParseUint|ParseFloat|ParseBool): parsing .*: (value out of range|invalid syntax)$`)

// plain says of a flag's value what is wanted.
func plain(err error) error {
	m := strconvs.FindStringSubmatchIndex(err.Error())
	if m == nil {
		return err
	}
	s := err.Error()
	want := "want " + map[string]string{"ParseInt": "a whole number", "ParseUint": "a whole number from 0 on", "ParseFloat": "a number", "ParseBool": "true or false"}[s[m[2]:m[3]]]
	if s[m[4]:m[5]] == "value out of range" {
		want = "it is out of range"
	}
	return errors.New(s[:m[0]] + want)
}

// usageError says that the command line was wrong; it makes the exit code 2.
type usageError struct {
	err  error
	next string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...), ""}
}

// exitError is a failure with an exit code of its own.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

// advice is a failure together with what to do about it.
type advice struct {
	err  error
	next string
}

func (e advice) Error() string { return e.err.Error() }
func (e advice) Unwrap() error { return e.err }

func advise(err error, format string, args ...any) error {
	return advice{err, fmt.Sprintf(format, args...)}
}

// report prints err, and what to do next where somebody said so.
func (a *app) report(err error) {
	var next string
	var use usageError
	var adv advice
	switch {
	case errors.As(err, &use):
		next = use.next
	case errors.As(err, &adv):
		next = adv.next
	case strings.HasPrefix(err.Error(), "unknown command"):
		next = "see `shoal --help`"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		next = "make room on that disk, then give the same command again: what is stored is intact"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		next = "let the process open more files: `ulimit -n 4096`, then give the same command again"
	}
	if a.json {
		v := map[string]string{"error": err.Error()}
		if next != "" {
			v["next"] = next
		}
		if json.NewEncoder(a.err).Encode(v) == nil {
			return
		}
	}
	fmt.Fprintf(a.err, "shoal: %s\n", printable(indented(strings.TrimSpace(err.Error()))))
	if next != "" {
		fmt.Fprintf(a.err, "  next: %s\n", printable(indented(next)))
	}
}

// exactly is cobra.ExactArgs that says what is missing by name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usageError{fmt.Errorf("%s: %s is missing", cmd.CommandPath(), names[len(args)]), "shoal " + strings.TrimPrefix(cmd.UseLine(), "shoal ")}
		}
		if len(args) > len(names) {
			return usageError{fmt.Errorf("%s: unexpected argument %q", cmd.CommandPath(), args[len(names)]), "shoal " + strings.TrimPrefix(cmd.UseLine(), "shoal ")}
		}
		return nil
	}
}

// atMost is exactly of arguments that may be left out.
func atMost(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		return exactly(names[:min(len(args), len(names))]...)(cmd, args)
	}
}

// group makes a command that only holds others: alone it prints its help, and
// a word that it does not know is wrong usage.
func group(c *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()), "see `" + cmd.CommandPath() + " --help`"}
		}
		return cmd.Help()
	}
	c.AddCommand(subs...)
	return c
}

// say prints one line to a person, on standard error.
func (a *app) say(format string, args ...any) {
	fmt.Fprintln(a.err, printable(fmt.Sprintf(format, args...)))
}

// show prints v as JSON with --json, and text otherwise, on standard output.
func (a *app) show(v any, text string) error {
	if a.json {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	_, err := io.WriteString(a.out, printable(text))
	return err
}
