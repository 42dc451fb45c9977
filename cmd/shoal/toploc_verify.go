package main

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/toploc"
)

type toplocVerifyFlags struct {
	toplocFlags
	ties, semantics string
	proofs          string
	strict          bool
	seed            uint64
	seen            string
}

func (a *app) toplocVerifyCmd() *cobra.Command {
	var vf toplocVerifyFlags
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Compare proofs with your own activations of the same tokens",
		Long: `Prints one JSON object a chunk: of the top-k activations, how many exponents differ
(exp_mismatches), by how much the mantissas of the others do (mant_err_mean,
mant_err_median; 2^64 if none agrees), and how many of their signs (sign_mismatches).
Without --strict that judges nothing.

--strict adds ok and reason, refuses every malformed or forged record, and fails unless
all chunks pass.`,
		Example: `  shoal toploc verify --hidden 4096 --topk 128 --batch 32 --proofs proofs.txt own.bf16
  shoal toploc verify --hidden 4096 --strict --seen seen.txt --proofs proofs.txt own.bf16`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.toplocVerify(cmd, args[0], &vf) },
	}
	vf.add(c)
	f := c.Flags()
	f.StringVar(&vf.proofs, "proofs", "", "file of base64 records, one a line (required)")
	f.StringVar(&vf.semantics, "semantics", "tensor", "the reference's path to follow: tensor (C++) or list (Python)")
	f.StringVar(&vf.ties, "ties", "auto", "lowest, libstdcxx, or auto: the rule under which a record agrees exactly, else libstdcxx as the reference's own verifier on a CPU")
	f.BoolVar(&vf.strict, "strict", false, "judge each chunk, and refuse what no honest prover sends")
	f.Uint64Var(&vf.seed, "seed", 0, "draws the control points of --strict (default: at random)")
	f.StringVar(&vf.seen, "seen", "", "with --strict, a file of hashes of accepted records: refuse those in it, add new ones")
	return c
}

// check reads the flags that have names as values.
func (vf *toplocVerifyFlags) check(cmd *cobra.Command) (sem toploc.Semantics, err error) {
	if vf.proofs == "" {
		return 0, usageError{errors.New("--proofs is missing"), "give the file that `shoal toploc prove` printed"}
	}
	switch vf.semantics {
	case "tensor":
	case "list":
		if sem = toploc.List; vf.strict {
			return 0, usagef("--strict follows the tensor semantics; leave --semantics list out")
		}
	default:
		return 0, usagef("--semantics %s: want tensor or list", vf.semantics)
	}
	if vf.ties != "auto" {
		if vf.p.Ties, err = parseTies(vf.ties); err != nil {
			return 0, err
		}
	}
	if !vf.strict && (vf.seen != "" || cmd.Flags().Changed("seed")) {
		return 0, usagef("--seen and --seed belong to --strict")
	}
	return sem, vf.toplocFlags.check()
}

func (a *app) toplocVerify(cmd *cobra.Command, name string, vf *toplocVerifyFlags) error {
	sem, err := vf.check(cmd)
	if err != nil {
		return err
	}
	if name == "-" && vf.proofs == "-" {
		return usagef("activations and --proofs cannot both be standard input")
	}
	pf, err := a.open(vf.proofs)
	if err != nil {
		return fmt.Errorf("--proofs: %w", err)
	}
	defer pf.Close()
	r, done, err := a.rows(name, &vf.toplocFlags)
	if err != nil {
		return err
	}
	defer done()
	v := &toplocVerifier{vf: vf, sem: sem, out: json.NewEncoder(a.out), proofs: newRecordReader(vf.proofs, pf, toploc.RecordSize(vf.p.TopK))}
	if err := v.begin(cmd); err != nil {
		return err
	}
	if err := r.each(cmd, v.push); err != nil {
		return err
	}
	return v.end()
}

// A toplocVerifier checks records while the rows stream in.
type toplocVerifier struct {
	vf     *toplocVerifyFlags
	sem    toploc.Semantics
	out    *json.Encoder
	proofs *recordReader
	// sels finds each chunk's top under the tie rules that may apply.
	sels   []*toploc.Selector
	judge  *toploc.Judge
	ledger *toplocLedger
	chunks int
	failed int
}

func (v *toplocVerifier) begin(cmd *cobra.Command) error {
	rules := []toploc.Ties{v.vf.p.Ties}
	if v.vf.ties == "auto" {
		rules = []toploc.Ties{toploc.TiesLowest, toploc.TiesLibstdcxx}
	}
	for _, t := range rules {
		p := v.vf.p
		p.Ties = t
		s, err := toploc.NewSelector(p, v.vf.prompt)
		if err != nil {
			return err
		}
		v.sels = append(v.sels, s)
	}
	if !v.vf.strict {
		return nil
	}
	s := toploc.Strict{Params: v.vf.p, Prefill: toploc.Published, Decode: toploc.Published, Seed: v.vf.seed}
	if !cmd.Flags().Changed("seed") {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return fmt.Errorf("control points: %w", err)
		}
		s.Seed = binary.LittleEndian.Uint64(b[:])
	}
	if v.vf.seen != "" {
		var err error
		if v.ledger, err = openLedger(v.vf.seen); err != nil {
			return err
		}
		s.Seen = v.ledger.seen
	}
	v.judge = s.Judge()
	return nil
}

// push takes the next row, or nil at the end.
func (v *toplocVerifier) push(row []uint16) error {
	tops := make([]*toploc.Top, len(v.sels))
	for i, s := range v.sels {
		var err error
		if row == nil {
			tops[i], err = s.Flush()
		} else {
			tops[i], err = s.Push(row)
		}
		if err != nil {
			return err
		}
	}
	if tops[0] == nil {
		return nil
	}
	v.chunks++
	record, err := v.proofs.next()
	if err == io.EOF {
		if v.failed++; v.vf.strict {
			return nil // end says how many there are
		}
		return fmt.Errorf("%s holds %d records, chunk %d has none", v.vf.proofs, v.proofs.read, v.chunks-1)
	}
	var bad recordError
	if err != nil && (!v.vf.strict || !errors.As(err, &bad)) {
		return err
	}
	return v.chunk(tops, record, err)
}

// toplocResult is a line of output.
type toplocResult struct {
	toploc.Result
	ControlHits *int    `json:"control_hits,omitempty"`
	OK          *bool   `json:"ok,omitempty"`
	Reason      *string `json:"reason,omitempty"`
}

// chunk judges one record, which bad says is none.
func (v *toplocVerifier) chunk(tops []*toploc.Top, record []byte, bad error) error {
	k := v.vf.p.TopK
	res, top := toploc.Null(k), tops[len(tops)-1]
	pf, err := (*toploc.Proof)(nil), bad
	if err == nil {
		pf, err = toploc.ParseProof(record, k)
	}
	if err == nil {
		for i := range tops {
			r, err := tops[i].Compare(v.sem, pf)
			if err != nil {
				return err
			}
			if res = r; r.ExpMismatches == 0 && r.MantErrMean == 0 {
				top = tops[i]
				break
			}
		}
	}
	if !v.vf.strict {
		if err != nil && !errors.Is(err, toploc.ErrNull) {
			return fmt.Errorf("%s: record %d: %w", v.vf.proofs, v.proofs.read-1, err)
		}
		return v.out.Encode(toplocResult{Result: res})
	}
	ok, reason, hits := false, "", 0
	if bad != nil {
		reason = bad.Error()
	} else {
		d := v.judge.Chunk(top, record)
		res, ok, reason, hits = d.Result, d.OK, d.Reason, d.ControlHits
	}
	if !ok {
		v.failed++
	}
	return v.out.Encode(toplocResult{res, &hits, &ok, &reason})
}

// end says what is wrong with the sequence as a whole.
func (v *toplocVerifier) end() error {
	for {
		_, err := v.proofs.next()
		var bad recordError
		if err == io.EOF {
			break
		} else if err != nil && !errors.As(err, &bad) {
			return err
		}
	}
	if v.proofs.read != v.chunks {
		return fmt.Errorf("%d proofs for %d chunks", v.proofs.read, v.chunks)
	}
	if v.failed > 0 {
		return fmt.Errorf("%d of %d chunks fail", v.failed, v.chunks)
	}
	if v.ledger != nil {
		return v.ledger.save()
	}
	return nil
}

// A recordReader reads base64 records, one a line.
type recordReader struct {
	name string
	in   *bufio.Reader
	size int // of a record in bytes; longer lines are cut short
	read int
}

// recordError reports a line that is no record.
type recordError struct{ error }

func newRecordReader(name string, in io.Reader, size int) *recordReader {
	return &recordReader{name: name, in: bufio.NewReaderSize(in, max(1<<16, 2*base64.StdEncoding.EncodedLen(size))), size: size}
}

// next returns the next record's bytes, a recordError, or io.EOF.
func (r *recordReader) next() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	if err == io.EOF && len(line) == 0 {
		return nil, io.EOF
	}
	long := false
	for errors.Is(err, bufio.ErrBufferFull) {
		long = true
		_, err = r.in.ReadSlice('\n')
	}
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	r.read++
	fail := func(err error) ([]byte, error) {
		return nil, recordError{fmt.Errorf("%s: line %d: %w", r.name, r.read, err)}
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	if want := base64.StdEncoding.EncodedLen(r.size); r.size > 0 && (long || len(text) != want) {
		return fail(fmt.Errorf("%d base64 characters, want %d", len(text), want))
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return fail(err)
	}
	return b, nil
}

// A toplocLedger remembers the records of accepted submissions by their hash, one
// in hex a line.
type toplocLedger struct {
	name string
	old  map[[32]byte]struct{}
	new  [][32]byte
}

func openLedger(name string) (*toplocLedger, error) {
	l := &toplocLedger{name: name, old: map[[32]byte]struct{}{}}
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	} else if err != nil {
		return nil, fmt.Errorf("--seen: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		var id [32]byte
		if b, err := hex.DecodeString(s.Text()); err != nil || len(b) != len(id) {
			return nil, fmt.Errorf("--seen: %s: line %d is no SHA-256 in hex", name, n)
		} else {
			copy(id[:], b)
		}
		l.old[id] = struct{}{}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("--seen: %s: %w", name, err)
	}
	return l, nil
}

func (l *toplocLedger) seen(record []byte) bool {
	id := sha256.Sum256(record)
	if _, ok := l.old[id]; ok {
		return true
	}
	l.old[id] = struct{}{}
	l.new = append(l.new, id)
	return false
}

// save appends what is new.
func (l *toplocLedger) save() (err error) {
	if len(l.new) == 0 {
		return nil
	}
	f, err := os.OpenFile(l.name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("--seen: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var b strings.Builder
	for _, id := range l.new {
		b.WriteString(hex.EncodeToString(id[:]) + "\n")
	}
	_, err = f.WriteString(b.String())
	return err
}
