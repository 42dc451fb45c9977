package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// kept remembers the first failure to write, which much of what prints does not look at: a
// command whose output is lost has not done what it was asked for. (A standard output that is
// closed is not told: Go's runtime has opened the null device in its place before main begins.)
type kept struct {
	io.Writer
	err error
}

func (k *kept) Write(b []byte) (int, error) {
	n, err := k.Writer.Write(b)
	if k.err == nil {
		k.err = err
	}
	return n, err
}

// lost is err, or that output was lost where nothing says so yet. Who has closed the other end of a pipe
// wants no more, which is no failure.
func (k *kept) lost(err error) error {
	if k.err == nil {
		return err
	}
	why := k.err
	var no syscall.Errno
	if errors.As(why, &no) { // the next write has an error of its own, of the same cause
		why = no
	}
	said, left := errors.Is(err, why), errors.Is(why, syscall.EPIPE)
	if said && left {
		return nil
	}
	if said || left {
		return err
	}
	return errors.Join(err, fmt.Errorf("standard output: %w", k.err))
}

// printable is text for a terminal. Much of what is told comes from strangers (other peers, a chain's
// node, files and their names): whatever would move the cursor, colour or retitle the
// terminal or turn the order of the text round is written as an escape. Lines stay lines.
func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1, r < ' ' && unprintable(r):
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case !unprintable(r):
			b.WriteString(s[:n])
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

func unprintable(r rune) bool {
	switch r {
	case '\n', '\t':
		return false
	case '\u2028', '\u2029', '\u200e', '\u200f', '\u061c':
		return true
	}
	return unicode.IsControl(r) || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}

// line is printable text without line breaks.
func line(s string) string {
	return printable(strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(s))
}

// indented keeps whoever wrote a part of a text from beginning a line of ours.
func indented(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines[1:] {
		if l != "" && l[0] != ' ' && l[0] != '\t' {
			lines[i+1] = "  " + l
		}
	}
	return strings.Join(lines, "\n")
}
