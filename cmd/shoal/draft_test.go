package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shoalnet/shoal/gpu/hf"
)

// writeTrained writes a model's directory as train does.
func writeTrained(dir string, cfg hf.Config, tokenizer []byte, params []float32) error {
	d, err := newDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.trained(cfg, tokenizer, params, nil), d.discard())
}

func TestAbandoned(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "m.gguf")
	live, err := newDraft(dir, to, false)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := newDraft(dir, to, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead.f.Name(), "part"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := dead.f.Close(); err != nil { // as the end of a process does
		t.Fatal(err)
	}
	// What only looks like one.
	others := []string{".m.gguf.shoal-", ".m.gguf.shoal-1x", "m.gguf.shoal-1", ".x.gguf.shoal-1", ".m.gguf.123", ".shoal-1"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, others[0]), filepath.Join(dir, ".m.gguf.shoal-2")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, ".m.gguf.shoal-3"), 0o600); err != nil {
		t.Fatal(err)
	}
	others = append(others, ".m.gguf.shoal-2", ".m.gguf.shoal-3", filepath.Base(live.f.Name()))
	if busy, err := abandoned(dir, to); err != nil || !busy {
		t.Errorf("one is being written: %v, %v", busy, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != len(others) {
		t.Errorf("%v is left, want %v (%v)", left, others, err)
	}
	if err := live.discard(); err != nil {
		t.Error(err)
	}
	if busy, err := abandoned(dir, to); err != nil || busy {
		t.Errorf("none is being written: %v, %v", busy, err)
	}
	if err := writeFile(to, []byte("x"), 0o644); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != len(others) { // without the live one, with the file
		t.Errorf("%v is left (%v)", left, err)
	}
	// Names as long as there are.
	if err := writeFile(filepath.Join(dir, strings.Repeat("é", 127)), nil, 0o644); err != nil {
		t.Error(err)
	}
}

// tinyRun makes a manifest with its data in dir, and returns its name.
func tinyRun(t *testing.T, dir, rounds string) string {
	t.Helper()
	shoal := func(args ...string) string {
		var out, errw bytes.Buffer
		if code := run(append([]string{"--dir", dir}, args...), os.Stdin, &out, &errw); code != 0 {
			t.Fatalf("%v: %s", args, errw.String())
		}
		return out.String()
	}
	yaml, text := filepath.Join(dir, "run.yaml"), filepath.Join(dir, "text.txt")
	conf := shoal("manifest", "init")
	for field, value := range map[string]string{"hidden_size": "16", "intermediate_size": "32", "num_attention_heads": "2", "num_key_value_heads": "2",
		"inner_steps": "3", "sequence": "16", "batch": "4", "rounds": rounds, "warmup": "2"} {
		conf = regexp.MustCompile(`(?m)^( *`+field+`:) \S+`).ReplaceAllString(conf, "$1 "+value)
	}
	for name, s := range map[string]string{yaml: conf, text: strings.Repeat("Call me Ishmael. Some years ago, never mind how long precisely. ", 40)} {
		if err := os.WriteFile(name, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shoal("data", "prepare", text, "--into", yaml, "--val", "0.2")
	return yaml
}

// What a training that was killed left where its model was to be, the next one there removes;
// while it lives, nobody else writes there. So in a directory that is there, which stays what it is.
func TestTrainingKilled(t *testing.T) {
	exe, err := exec.LookPath("shoal")
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	long, short := tinyRun(t, data, "100000"), tinyRun(t, t.TempDir(), "1")
	for name, there := range map[string]bool{"new": false, "there": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			out, in := filepath.Join(dir, "model"), dir
			if there {
				if in = out; os.Mkdir(out, 0o755) != nil {
					t.Fatal(err)
				}
			}
			drafts := func() []string {
				all, err := filepath.Glob(filepath.Join(in, ".model.shoal-*"))
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			cmd := exec.Command(exe, "--dir", data, "train", "--config", long, "--local", "--threads", "1", "--out", out)
			says, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(says).ReadString('\n'); err != nil {
				t.Errorf("%q, %v", line, err)
			}
			var errw bytes.Buffer
			again := []string{"--dir", filepath.Dir(short), "train", "--config", short, "--local", "--threads", "1", "--out", out}
			if code := run(again, os.Stdin, &errw, &errw); code != 1 || !strings.Contains(errw.String(), "another process is writing it") || len(drafts()) != 1 {
				t.Errorf("beside another: %d, %s; drafts %v", code, errw.String(), drafts())
			}
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil || len(drafts()) != 1 {
				t.Errorf("killed: %v; drafts %v", err, drafts())
			}
			if code := run(again, os.Stdin, &errw, &errw); code != 0 || len(drafts()) != 0 {
				t.Errorf("after it: %d, %s; drafts %v", code, errw.String(), drafts())
			}
			if _, err := localModel(out); err != nil {
				t.Error(err)
			}
		})
	}
}
