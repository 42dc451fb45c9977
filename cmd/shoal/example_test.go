package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Every command line of --help and of README.md is one that shoal takes: its commands, flags, values and number of
// arguments are right.
func TestExamplesParse(t *testing.T) {
	a := &app{in: os.Stdin, out: new(bytes.Buffer), err: new(bytes.Buffer)}
	texts := map[string]string{}
	for _, c := range all(a.root()) {
		texts[c.CommandPath()] = c.Example + "\n" + indentedLines(c.Long)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(readme), "```") {
		if i%2 == 1 {
			texts["README"] += block
		}
	}
	n := 0
	for where, text := range texts {
		for line := range strings.Lines(text) {
			for _, words := range commandLines(line) {
				n++
				if err := parses(words); err != nil {
					t.Errorf("%s: %q: %v", where, strings.Join(words, " "), err)
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d command lines were found", n)
	}
	for _, wrong := range []string{"shoal join", "shoal frobnicate", "shoal status --frob", "shoal stake 1 2", "shoal runs --wait soon", "shoal manifest"} {
		if parses(strings.Fields(wrong)) == nil {
			t.Errorf("%q is taken for right", wrong)
		}
	}
}

// indentedLines are those of a long text that stand apart, as examples do.
func indentedLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "  shoal ") {
			before, _, _ := strings.Cut(line[2:], "  ") // what it means
			b.WriteString(before + "\n")
		}
	}
	return b.String()
}

// commandLines splits a line as a shell would, as far as examples go, and returns the commands of shoal in it.
func commandLines(line string) (out [][]string) {
	var words []string
	var word strings.Builder
	in := false // a word
	end := func() {
		if in {
			words = append(words, word.String())
		}
		word.Reset()
		in = false
	}
	stop := func() {
		end()
		for len(words) > 0 && strings.Contains(words[0], "=") { // of the environment
			words = words[1:]
		}
		if len(words) > 0 && (words[0] == "shoal" || strings.HasSuffix(words[0], "/shoal")) {
			out = append(out, words)
		}
		words = nil
	}
	skip := false // the word after > or <
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\'' || c == '"':
			j := strings.IndexByte(line[i+1:], c)
			if j < 0 {
				j = len(line) - i - 2
			}
			word.WriteString(line[i+1 : i+1+j])
			in = true
			i += j + 1
		case c == '#' && !in:
			stop()
			return out
		case c == '$' && strings.HasPrefix(line[i:], "$("):
			j := strings.IndexByte(line[i:], ')')
			out = append(out, commandLines(line[i+2:i+j])...)
			word.WriteString("x")
			in = true
			i += j
		case c == '|' || c == '&' || c == ';':
			stop()
		case c == '>' || c == '<':
			end()
			skip = true
		case c == ' ' || c == '\t' || c == '\n':
			if in && skip {
				word.Reset()
				in, skip = false, false
			}
			end()
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if skip {
		word.Reset()
		in = false
	}
	stop()
	return out
}

// parses says what is wrong with a command line, without running it.
func parses(words []string) error {
	a := &app{in: os.Stdin, out: new(bytes.Buffer), err: new(bytes.Buffer)}
	root := a.root()
	c, args, err := root.Find(words[1:])
	if err != nil {
		return err
	}
	if err := c.ParseFlags(args); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if !c.Runnable() || c.HasSubCommands() {
		return usagef("%s is no command by itself", c.CommandPath())
	}
	if err := c.ValidateRequiredFlags(); err != nil {
		return err
	}
	if err := bounded(c.Flags()); err != nil {
		return err
	}
	var empty error
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.String() == "" {
			empty = usagef("--%s is empty", f.Name)
		}
	})
	if empty != nil {
		return empty
	}
	return c.ValidateArgs(c.Flags().Args())
}
