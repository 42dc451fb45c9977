package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/hf"
)

const maxLine = 64 << 20 // bytes of a line of --jsonl

func (a *app) tokenizeCmd() *cobra.Command {
	var name string
	var lines bool
	c := &cobra.Command{
		Use:   "tokenize --tokenizer TOKENIZER",
		Short: "Turn text on standard input into token IDs",
		Long: `Prints the IDs of standard input's text as one JSON array. Added tokens within the text,
such as <|endoftext|>, are recognised; nothing is put before or after it.

With --jsonl every line of the input is a JSON string, and every line of the output the
array of its IDs; blank lines are passed over.`,
		Example: `  echo -n "Call me Ishmael." | shoal tokenize --tokenizer model/
  jq -c .text corpus.jsonl | shoal tokenize --tokenizer tokenizer.json --jsonl > ids.jsonl`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if name == "" {
				return usageError{errors.New("shoal tokenize: --tokenizer is needed"), "shoal tokenize --tokenizer DIR"}
			}
			tok, err := tokenizerOf(name)
			if err != nil {
				return err
			}
			in := interruptible(ctx, a.in)
			if lines {
				return tokenizeLines(ctx, tok, in, a.out)
			}
			text, err := io.ReadAll(io.LimitReader(in, maxText+1))
			if err != nil {
				return fmt.Errorf("standard input: %w", err)
			}
			if len(text) > maxText {
				return fmt.Errorf("standard input: over the limit of %d bytes", int64(maxText))
			}
			ids, err := a.encode(ctx, tok, string(text))
			if err != nil {
				return err
			}
			_, err = a.out.Write(appendIDs(nil, ids[0]))
			return err
		},
	}
	c.Flags().StringVar(&name, "tokenizer", "", "tokenizer.json, or the directory that holds it")
	c.Flags().BoolVar(&lines, "jsonl", false, "read one JSON string a line, write one array a line")
	return c
}

// tokenizeLines answers whenever it has read all there is, so that a program
// can ask through a pipe.
func tokenizeLines(ctx context.Context, tok *hf.Tokenizer, in io.Reader, out io.Writer) error {
	r := bufio.NewReaderSize(in, 1<<16)
	w := bufio.NewWriterSize(out, 1<<16)
	var line, ids []byte
	for n := 1; ; n++ {
		var err error
		if line, err = readLine(r, line[:0]); err != nil && !errors.Is(err, io.EOF) {
			return errors.Join(w.Flush(), fmt.Errorf("line %d: %w", n, err))
		}
		if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 {
			if !utf8.Valid(trimmed) {
				return errors.Join(w.Flush(), fmt.Errorf("line %d: it is not UTF-8", n))
			}
			var text *string
			if jerr := json.Unmarshal(trimmed, &text); jerr != nil || text == nil {
				return errors.Join(w.Flush(), advise(fmt.Errorf("line %d: %.40q is not a JSON string", n, trimmed), "without --jsonl the whole input is one text"))
			}
			got, ok := tok.EncodeWhile(*text, func(int) bool { return ctx.Err() == nil })
			if !ok {
				return errors.Join(w.Flush(), fmt.Errorf("line %d: %w", n, ctx.Err()))
			}
			ids = appendIDs(ids[:0], got)
			if _, werr := w.Write(ids); werr != nil {
				return werr
			}
		}
		if err != nil {
			return w.Flush()
		}
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

// readLine appends a line to b; io.EOF comes with the last.
func readLine(r *bufio.Reader, b []byte) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		b = append(b, part...)
		if len(b) > maxLine {
			return b, fmt.Errorf("over the limit of %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return b, err
		}
	}
}

// appendIDs appends ids as a line of JSON.
func appendIDs(b []byte, ids []int32) []byte {
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(id), 10)
	}
	return append(b, ']', '\n')
}
