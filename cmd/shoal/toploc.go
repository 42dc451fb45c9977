package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/toploc"
)

func (a *app) toplocCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "toploc",
		Short: "Prove and check which model wrote a text",
		Long: `TOPLOC proofs commit to the largest activations of a model's last hidden states. Whoever
has the model checks them in one pass over the text.

Activations are little-endian bfloat16 rows of H values, one row a token, in a FILE or,
with -, on standard input. Proofs are base64, one record a line, byte-compatible with
toploc 0.1.6. toploc/SPEC.md has every byte.`,
		Example: `  shoal toploc prove --hidden 4096 --topk 128 --batch 32 rows.bf16 > proofs.txt
  shoal toploc verify --hidden 4096 --topk 128 --batch 32 --strict --proofs proofs.txt own.bf16
  shoal toploc inspect proofs.txt

  # limits of one model, and what passes them
  shoal toploc calibrate model/ --text corpus.txt --out policy.json
  shoal toploc verify --policy policy.json --strict --proofs proofs.txt own.bf16`,
	}, a.toplocProveCmd(), a.toplocVerifyCmd(), a.toplocInspectCmd(), a.toplocProjectCmd(), a.toplocCalibrateCmd())
}

// toplocFlags are the flags that prover and verifier must agree on.
type toplocFlags struct {
	p      toploc.Params
	prompt int
}

func (tf *toplocFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.IntVar(&tf.p.Hidden, "hidden", 0, "activations of a token (required)")
	f.IntVar(&tf.p.TopK, "topk", 128, "activations in a proof; at most --hidden, or a last chunk of one token has too few")
	f.IntVar(&tf.p.Batch, "batch", 32, "generated tokens in a chunk")
	f.IntVar(&tf.prompt, "prompt-tokens", 0, "the first so many rows are the prompt's and one chunk; 0 means that they are absent")
}

// check refuses what no file of rows can fit, as wrong usage.
func (tf *toplocFlags) check() error {
	if tf.p.Hidden == 0 {
		return usageError{errors.New("--hidden is missing"), "give the model's hidden size, say --hidden 4096"}
	}
	if _, err := toploc.NewSelector(tf.p, tf.prompt); err != nil {
		return usageError{err, "see --hidden, --topk, --batch and --prompt-tokens"}
	}
	return nil
}

// parseTies reads a tie rule's name.
func parseTies(s string) (toploc.Ties, error) {
	for _, t := range []toploc.Ties{toploc.TiesLowest, toploc.TiesLibstdcxx} {
		if s == t.String() {
			return t, nil
		}
	}
	return 0, usagef("--ties %s: want lowest or libstdcxx", s)
}

// A source is a file to read, whose reads end with a context where it is a pipe or a terminal.
type source struct {
	io.Reader
	*os.File
}

func (s source) Read(b []byte) (int, error) { return s.Reader.Read(b) }

// open opens a file to read, - being standard input.
func (a *app) open(ctx context.Context, name string) (source, error) {
	f, err := a.in, error(nil)
	if name != "-" {
		if f, err = open(ctx, name); err != nil {
			return source{}, err
		}
	}
	fi, err := f.Stat()
	switch {
	case err == nil && fi.Mode().IsRegular():
		return source{f, f}, nil
	case err == nil && !fi.IsDir():
		return source{interruptible(ctx, f), f}, nil
	case err == nil:
		err = fmt.Errorf("%s is a directory, want a file", name)
	}
	f.Close()
	return source{}, err
}

// rowReader reads rows of bfloat16 bits; it holds one.
type rowReader struct {
	name string
	in   *bufio.Reader
	raw  []byte
	row  []uint16
	read int64 // rows
}

// fits refuses a file of so many rows that has a chunk of fewer than k activations.
func (tf *toplocFlags) fits(name string, rows int64) error {
	if rows < int64(tf.prompt) {
		return fmt.Errorf("%s holds %d rows, fewer than the %d of --prompt-tokens", name, rows, tf.prompt)
	}
	small := int64(tf.prompt)
	if generated := rows - small; generated > 0 {
		last := (generated-1)%int64(tf.p.Batch) + 1 // the shortest chunk
		if small == 0 || last < small {
			small = last
		}
	}
	if n := small * int64(tf.p.Hidden); rows > 0 && n < int64(tf.p.TopK) {
		return advise(fmt.Errorf("%s has a chunk of %d activations, which has no top %d", name, n, tf.p.TopK), "choose --topk at most --hidden")
	}
	return nil
}

// rows opens a file of activations. A file whose size is no multiple of a row
// is refused at once, a stream when it ends.
func (a *app) rows(ctx context.Context, name string, tf *toplocFlags) (*rowReader, func(), error) {
	f, err := a.open(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	r := &rowReader{name: name, in: bufio.NewReaderSize(f, 1<<18), raw: make([]byte, 2*tf.p.Hidden), row: make([]uint16, tf.p.Hidden)}
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && name != "-" {
		if over := fi.Size() % int64(len(r.raw)); over != 0 {
			f.Close()
			return nil, nil, r.ragged(fi.Size()/int64(len(r.raw)), over)
		}
		if err := tf.fits(name, fi.Size()/int64(len(r.raw))); err != nil {
			f.Close()
			return nil, nil, err
		}
	}
	return r, func() { f.Close() }, nil
}

func (r *rowReader) ragged(rows, over int64) error {
	return advise(fmt.Errorf("%s ends with %d bytes after %d rows of %d", r.name, over, rows, len(r.raw)),
		"rows are --hidden values of two bytes each; is --hidden %d right?", len(r.row))
}

// next returns the next row, valid until the next call, or io.EOF.
func (r *rowReader) next() ([]uint16, error) {
	n, err := io.ReadFull(r.in, r.raw)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, r.ragged(r.read, int64(n))
	case err == io.EOF:
		return nil, io.EOF
	case err != nil:
		return nil, fmt.Errorf("%s: row %d: %w", r.name, r.read, err)
	}
	for i := range r.row {
		r.row[i] = uint16(r.raw[2*i]) | uint16(r.raw[2*i+1])<<8
	}
	r.read++
	return r.row, nil
}

// each pushes every row into push and calls it with nil at the end.
func (r *rowReader) each(cmd *cobra.Command, push func(row []uint16) error) error {
	for {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		row, err := r.next()
		if err == io.EOF {
			if r.read == 0 {
				return fmt.Errorf("%s is empty: no row, no proof", r.name)
			}
			return push(nil)
		}
		if err != nil {
			return err
		}
		if err := push(row); err != nil {
			return err
		}
	}
}

func (a *app) toplocProveCmd() *cobra.Command {
	var tf toplocFlags
	var ties string
	c := &cobra.Command{
		Use:   "prove FILE",
		Short: "Print the proofs of a sequence's activations",
		Long: `Reads rows as they come and prints each chunk's proof as soon as the chunk is whole, in
memory that depends on --topk and --hidden only.`,
		Example: `  shoal toploc prove --hidden 4096 --topk 128 --batch 32 rows.bf16
  engine | shoal toploc prove --hidden 4096 --topk 128 --batch 32 --prompt-tokens 57 -`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if tf.p.Ties, err = parseTies(ties); err != nil {
				return err
			}
			if err := tf.check(); err != nil {
				return err
			}
			r, done, err := a.rows(cmd.Context(), args[0], &tf)
			if err != nil {
				return err
			}
			defer done()
			pr, err := toploc.NewProver(tf.p, tf.prompt)
			if err != nil {
				return err
			}
			return r.each(cmd, func(row []uint16) error {
				pf, err := (*toploc.Proof)(nil), error(nil)
				if row == nil {
					pf, err = pr.Flush()
				} else {
					pf, err = pr.Push(row)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				if pf != nil {
					_, err = fmt.Fprintln(a.out, pf.Base64())
				}
				return err
			})
		},
	}
	tf.add(c)
	c.Flags().StringVar(&ties, "ties", "lowest", "which of tied activations to take: lowest position, or as torch on a Linux CPU (libstdcxx)")
	return c
}
