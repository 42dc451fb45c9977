package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	logging "github.com/ipfs/go-log/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/shoalnet/shoal/p2p"
)

// Files of the data directory that are the command's own; the rest belongs to
// the packages that it opens them with.
const (
	keyFile  = "node.key.json"
	lockFile = "LOCK"
)

// homeless are the commands, and groups of them, that may do without a data directory; where one
// of them needs it after all, housed says so.
var homeless = []string{"eval", "generate", "convert", "tokenize", "bench", "worker", "toploc", "testnet", "manifest init", "manifest check", "manifest cid",
	"lineage verify", "version", "help", "completion", "__complete", "__completeNoDesc"}

// housed refuses what needs a data directory where none is known.
func (a *app) housed() error {
	if a.dir == "" {
		return advise(errors.New("no data directory: $HOME is not set"), "name one with --dir or SHOAL_DIR")
	}
	if fi, err := os.Stat(a.dir); err == nil && !fi.IsDir() || errors.Is(err, unix.ENOTDIR) {
		return advise(fmt.Errorf("data directory: %s is not a directory", a.dir), "choose another with --dir")
	}
	return nil
}

// bounded refuses numbers that mean nothing, of flags that several commands have.
func bounded(fs *pflag.FlagSet) (err error) {
	fs.Visit(func(f *pflag.Flag) {
		d, derr := fs.GetDuration(f.Name)
		switch {
		case err != nil:
		case derr == nil && (d < 0 || d == 0 && f.Name == "timeout"):
			err = usagef("--%s %v: want more than 0, e.g. 90s", f.Name, d)
		case f.Name == "quota":
			if n, e := fs.GetInt64(f.Name); e == nil && (n < 0 || n > maxQuota) {
				err = usagef("--quota %d: want 1 to %d, or 0 for no limit", n, maxQuota)
			}
		}
	})
	return err
}

const maxQuota = 1 << 30 // GiB

// prepare settles the data directory and the log before any command runs.
func (a *app) prepare(cmd *cobra.Command) error {
	if f := cmd.Flags().Lookup("threads"); f != nil {
		if n, err := cmd.Flags().GetInt("threads"); err == nil && (n < 0 || n > maxThreads) {
			return usagef("--threads %d: want 1 to %d, or 0 for one for each core", n, maxThreads)
		}
	}
	if err := bounded(cmd.Flags()); err != nil {
		return err
	}
	if f := cmd.Flags().Lookup("dir"); f.Changed && a.dir == "" {
		return usagef("--dir is empty: a variable that is not set?")
	}
	if a.dir == "" {
		a.dir = os.Getenv("SHOAL_DIR")
	}
	if home, err := os.UserHomeDir(); a.dir == "" && err == nil {
		a.dir = filepath.Join(home, ".shoal")
	}
	words := strings.TrimPrefix(cmd.CommandPath(), "shoal ") + " "
	if !cmd.HasSubCommands() && !slices.ContainsFunc(homeless, func(c string) bool { return strings.HasPrefix(words, c+" ") }) {
		if err := a.housed(); err != nil {
			return err
		}
	}
	if a.dir != "" {
		dir, err := filepath.Abs(a.dir)
		if err != nil {
			return fmt.Errorf("data directory %s: %w", a.dir, err)
		}
		a.dir = dir
	}

	level := slog.LevelWarn
	if a.logLevel != "" {
		if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
			return usagef("--log-level %q: want debug, info, warn or error", a.logLevel)
		}
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})))
	// The libraries below talk about matters of their own unless one is debugging.
	logging.SetupLogging(logging.Config{Stderr: true, Level: max(logging.LevelError, libraryLevel(level))})
	silent := slog.LevelError + 4
	if level <= slog.LevelDebug {
		silent = slog.LevelWarn
	}
	p2p.LogLibp2p(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: silent}))
	return nil
}

func libraryLevel(l slog.Level) logging.LogLevel {
	if l <= slog.LevelDebug {
		return logging.LevelWarn
	}
	return logging.LevelFatal
}

// path returns a file's place in the data directory.
func (a *app) path(name ...string) string {
	return filepath.Join(append([]string{a.dir}, name...)...)
}

// lock makes the data directory and takes its lock, which unlock gives back.
// Two processes with one key would equivocate, and be evicted for it.
func (a *app) lock() (unlock func(), err error) {
	if err := a.housed(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, advise(fmt.Errorf("data directory: %w", err), "choose another with --dir")
	}
	unlock, who, err := flock(a.path(lockFile))
	if err == nil && who != "" {
		err = advise(fmt.Errorf("%s uses the data directory %s", who, a.dir),
			"stop it first, or give this one another directory with --dir (each peer needs its own)")
	}
	return unlock, err
}

// flock takes a lock that ends with the process, or says who has it.
func flock(name string) (unlock func(), who string, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, "", advise(fmt.Errorf("data directory: %w", err), "make it yours to write to, or choose another with --dir")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, "", fmt.Errorf("lock %s: %w", name, err)
		}
		who := "another process"
		if b, err := io.ReadAll(io.LimitReader(f, 32)); err == nil && len(b) > 0 {
			who = "process " + strings.TrimSpace(string(b))
		}
		return nil, who, nil
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		return nil, "", errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return func() { f.Close() }, "", nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}
