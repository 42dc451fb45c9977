package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/gpu/llama"
)

// longModel is a model that takes minutes over its whole context.
func longModel(t *testing.T) string {
	t.Helper()
	tok, err := hf.NewChar("ab")
	if err != nil {
		t.Fatal(err)
	}
	cfg := hf.Config{HiddenSize: 64, IntermediateSize: 96, NumHiddenLayers: 4, NumAttentionHeads: 4, NumKeyValueHeads: 4, HeadDim: 16,
		VocabSize: 2, MaxPositionEmbeddings: 1 << 17, RMSNormEps: 1e-5, RopeTheta: 10000, TieWordEmbeddings: true}
	dir := filepath.Join(t.TempDir(), "model")
	if err := writeTrained(dir, cfg, tok.JSON(), llama.Genesis(cfg, 1)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Whatever takes long says how far it is, and ends soon after a signal: within one
// document, one prompt, one text, or waiting for standard input.
func TestInterrupted(t *testing.T) {
	model := longModel(t)
	dir := t.TempDir()
	text, slow := filepath.Join(dir, "long.txt"), filepath.Join(dir, "slow.json")
	long := strings.Repeat("abbaab", 20_000)
	for name, s := range map[string]string{
		text: long,
		// Merges that leave nothing to be cut, so that the whole text is one heap.
		slow: `{"model": {"type": "BPE", "vocab": {"a": 0, "aa": 1, "aaaa": 2, "aaaaaaaa": 3}, "merges": ["a a", "aa aa", "aaaa aaaa"]}}`,
	} {
		if err := os.WriteFile(name, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := exec.LookPath("shoal")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args  []string
		stdin string
		says  string // before it is interrupted, on standard error; "": at once
		sig   syscall.Signal
	}{
		"eval":     {[]string{"eval", "--model", model, "--text", text}, "", "document 1 of 1, ", syscall.SIGINT},
		"generate": {[]string{"generate", model, "-p", long[:100_000]}, "", "reading the prompt, ", syscall.SIGTERM},
		"worker":   {[]string{"generate", model, "-p", long[:100_000], "--engine", "worker"}, "", "reading the prompt, ", syscall.SIGINT},
		"tokenize": {[]string{"tokenize", "--tokenizer", slow}, strings.Repeat("a", 40<<20), "tokenizing, ", syscall.SIGINT},
		"line":     {[]string{"tokenize", "--tokenizer", slow, "--jsonl"}, `"` + strings.Repeat("a", 60<<20) + "\"\n", "", syscall.SIGINT},
		"input":    {[]string{"tokenize", "--tokenizer", slow}, strings.Repeat("a", 1<<20), "", syscall.SIGTERM},
		"rows":     {[]string{"toploc", "prove", "--hidden", "8", "-"}, strings.Repeat("12345678", 1<<17), "", syscall.SIGINT},
		"records":  {[]string{"toploc", "inspect", "-"}, strings.Repeat("AAAA\n", 1<<16), "", syscall.SIGTERM},
		"lines":    {[]string{"tokenize", "--tokenizer", slow, "--jsonl"}, strings.Repeat("\"b\"\n", 1<<18), "", syscall.SIGINT},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(exe, c.args...)
			cmd.Env = append(os.Environ(), "SHOAL_DIR="+t.TempDir())
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			said, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// What a pipe cannot hold is read by a process whose signals are its own.
			if _, err := io.WriteString(in, c.stdin); err != nil {
				t.Fatal(err)
			}
			out := bufio.NewReader(said)
			if c.says != "" {
				if err := in.Close(); err != nil {
					t.Fatal(err)
				}
				line, err := out.ReadString('\n')
				if err != nil || !strings.HasPrefix(line, c.says) {
					t.Errorf("it says %q (%v)", line, err)
				}
			}
			ended(t, cmd, c.sig, out)
		})
	}
}

// ended sends a signal and wants a clear and timely end.
func ended(t *testing.T, cmd *exec.Cmd, sig syscall.Signal, out *bufio.Reader) {
	t.Helper()
	start := time.Now()
	for range 2 { // as timeout(1) does; the end is as orderly
		if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
	}
	rest, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	took := time.Since(start)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 128+int(sig) || !strings.Contains(string(rest), "interrupted") || strings.Contains(string(rest), "canceled") {
		t.Errorf("%v: it says %q", err, rest)
	}
	if t.Logf("ended after %v: %s", took, rest); took > 10*time.Second { // a second on an idle machine
		t.Errorf("it took %v to end", took)
	}
}

// What waits for somebody to write to a pipe ends with a signal; a model's files are no pipes,
// whoever sent them.
func TestInterruptedPipe(t *testing.T) {
	exe, err := exec.LookPath("shoal")
	if err != nil {
		t.Fatal(err)
	}
	model, dir := longModel(t), t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	greets := exec.Command(exe, "worker")
	greets.Stdin = strings.NewReader("") // and ends
	hello, err := greets.Output()
	if err != nil {
		t.Fatal(err)
	}
	// mute says that it is there, and then nothing, as no worker does; deaf greets before, and is asked something. What they would say it on stays open.
	mute, deaf, greeting := filepath.Join(dir, "mute"), filepath.Join(dir, "deaf"), filepath.Join(dir, "greeting")
	for name, s := range map[string]string{
		mute:     "#!/bin/sh\necho > " + pipe + "\nexec cat 3>&1 > /dev/null\n",
		deaf:     "#!/bin/sh\ncat " + greeting + "\nhead -c 1 > /dev/null\necho > " + pipe + "\nexec cat 3>&1 > /dev/null\n",
		greeting: string(hello),
	} {
		if err := os.WriteFile(name, []byte(s), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, args := range map[string][]string{
		"tokenizer": {"tokenize", "--tokenizer", pipe},
		"manifest":  {"train", "--local", "--config", pipe},
		"messages":  {"generate", model, "--messages", pipe},
		"text":      {"eval", "--model", model, "--text", pipe},
		"import":    {"data", "import", pipe},
		"rows":      {"toploc", "prove", "--hidden", "8", pipe},
		"records":   {"toploc", "inspect", pipe},
		"proofs":    {"toploc", "verify", "--hidden", "8", "--proofs", pipe, "/dev/zero"},
		"key":       {"key", "import", pipe},
		"worker":    {"generate", model, "-p", "ab", "--engine", "exec:" + mute},
		"deaf":      {"generate", model, "-p", "ab", "--engine", "exec:" + deaf},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "messages" {
				if err := os.WriteFile(filepath.Join(model, chatTemplateFile), []byte("{{ messages }}"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(exe, args...)
			cmd.Env = append(os.Environ(), "SHOAL_DIR="+t.TempDir())
			said, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			how := os.O_WRONLY
			if name == "worker" || name == "deaf" {
				how = os.O_RDONLY
			}
			f, err := os.OpenFile(pipe, how, 0) // once the other end is open
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			ended(t, cmd, syscall.SIGTERM, bufio.NewReader(said))
		})
	}
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"} {
		dir := longModel(t)
		name := filepath.Join(dir, name)
		if err := errors.Join(os.RemoveAll(name), unix.Mkfifo(name, 0o600)); err != nil {
			t.Fatal(err)
		}
		var errw bytes.Buffer
		if code := run([]string{"generate", dir, "-p", "ab", "-n", "1"}, os.Stdin, &errw, &errw); code != 1 || !strings.Contains(errw.String(), name+" (p") {
			t.Errorf("%d, %s", code, errw.String())
		}
	}
}
