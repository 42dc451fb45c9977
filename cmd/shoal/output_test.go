package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		"a\n  b\tc …↓ é 鲸 \ufffd":    "a\n  b\tc …↓ é 鲸 \ufffd",
		"\x1b[2Jx\x1b]0;t\a":         `\x1b[2Jx\x1b]0;t\x07`,
		"bar\rfoo\b\x7f":             `bar\x0dfoo\x08\u007f`,
		"\u009b31m":                  `\u009b31m`, // what some terminals take for ESC [
		"abc\xff\x9b\xc3":            `abc\xff\x9b\xc3`,
		"\u202egnp.exe\u2066 \u200e": `\u202egnp.exe\u2066 \u200e`,
		"one\u2028two":               `one\u2028two`,
		"👩\u200d🚀 नमस्ते":            "👩\u200d🚀 नमस्ते", // joiners are of the text
	} {
		if got := printable(in); got != want {
			t.Errorf("%q is printed as %q, want %q", in, got, want)
		}
	}
	if got := line("a\nb\tc\x1b"); got != `a\nb\tc\x1b` {
		t.Errorf("%q", got)
	}
	if got := indented("a\nshoal: all is well\n    b\n\n"); got != "a\n  shoal: all is well\n    b\n\n" {
		t.Errorf("%q", got)
	}
}

// What strangers wrote reaches neither the terminal as more than text, nor the beginning of a line.
func TestReportIsPrintable(t *testing.T) {
	var e bytes.Buffer
	a := &app{err: &e}
	a.report(advise(errors.New("the node says \x1b[31mno\nshoal: all is well"), "ask \x1b]0;x\a"))
	if want := "shoal: the node says \\x1b[31mno\n  shoal: all is well\n  next: ask \\x1b]0;x\\x07\n"; e.String() != want {
		t.Errorf("%q, want %q", e.String(), want)
	}
	e.Reset()
	a.say("%s", "a\x1bb")
	s := a.screen()
	s.line("c\x1bd")
	s.now("e\r\nf", 0)
	if want := "a\\x1bb\nc\\x1bd\ne\\x0d\\nf\n"; e.String() != want {
		t.Errorf("%q, want %q", e.String(), want)
	}
	if name := "no\x1b[31m\nfile"; strings.Contains(func() string { _, said, _ := shoal(t, t.TempDir(), "manifest", "check", name); return said }(), "\x1b") {
		t.Error("a file's name reaches the terminal")
	}
}

type refuses struct{ err error }

func (r refuses) Write([]byte) (int, error) { return 0, r.err }

// Output that is lost is a failure, whatever command prints it.
func TestOutputLost(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}
	for _, args := range [][]string{{"help"}, {"--help"}, {}, {"help", "join"}, {"key"}, {"version"}, {"version", "--json"}, {"manifest", "init"}, {"completion", "bash"}, {"__complete", "jo"}} {
		for err, want := range map[error]int{full: 1, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}: 0} {
			var e bytes.Buffer
			code := run(args, os.Stdin, refuses{err}, &e)
			if code != want || (code != 0) != strings.Contains(e.String(), "no space left") || strings.Count(e.String(), "no space left") > 1 {
				t.Errorf("%v, %v: exit %d: %s", args, err, code, e.String())
			}
		}
	}
	var e bytes.Buffer
	if code := run([]string{"key", "frobnicate"}, os.Stdin, refuses{full}, &e); code != 2 {
		t.Errorf("exit %d: %s", code, e.String())
	}
	if code := run([]string{"version"}, os.Stdin, io.Discard, refuses{full}); code != 0 {
		t.Errorf("exit %d", code)
	}
}
