package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

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
	policy          string
	projections     string
	job             string

	rules *toploc.Policy // read from policy
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
all chunks pass and there is one record for each. Its limits are the published ones in proportion to --topk, under which
another prompt or coarser weights may pass, unless a --policy of the model has better ones.
--projections checks version 2 records too.`,
		Example: `  shoal toploc verify --hidden 4096 --topk 128 --batch 32 --proofs proofs.txt own.bf16
  shoal toploc verify --hidden 4096 --strict --seen seen.txt --proofs proofs.txt own.bf16
  shoal toploc verify --policy policy.json --strict --job 17 --projections v2.txt --proofs proofs.txt own.bf16`,
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
	f.StringVar(&vf.policy, "policy", "", "the model's parameters and limits, as shoal toploc calibrate writes them")
	f.StringVar(&vf.projections, "projections", "", "with --strict, --policy and --job, a file of version 2 records, one a line")
	f.StringVar(&vf.job, "job", "", "the job that version 2 records are bound to")
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
	if vf.rules, err = vf.readPolicy(cmd, vf.policy); err != nil {
		return 0, err
	}
	if vf.rules != nil && !cmd.Flags().Changed("ties") {
		vf.ties = vf.p.Ties.String()
	}
	if vf.ties != "auto" {
		if vf.p.Ties, err = parseTies(vf.ties); err != nil {
			return 0, err
		}
	}
	if !vf.strict && (vf.seen != "" || vf.projections != "" || cmd.Flags().Changed("seed")) {
		return 0, usagef("--seen, --projections and --seed belong to --strict")
	}
	if vf.projections != "" && (vf.rules == nil || vf.rules.Projection == nil || !cmd.Flags().Changed("job")) {
		return 0, usagef("--projections needs --job, and a --policy with a projection")
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
	pf, err := a.open(cmd.Context(), vf.proofs)
	if err != nil {
		return fmt.Errorf("--proofs: %w", err)
	}
	defer pf.Close()
	r, done, err := a.rows(cmd.Context(), name, &vf.toplocFlags)
	if err != nil {
		return err
	}
	defer done()
	var v2 *recordReader
	if vf.projections != "" {
		f, err := a.open(cmd.Context(), vf.projections)
		if err != nil {
			return fmt.Errorf("--projections: %w", err)
		}
		defer f.Close()
		v2 = newRecordReader(vf.projections, f, 0, vf.rules.Projection.RecordSize(max(vf.prompt, vf.p.Batch)))
	}
	v := &toplocVerifier{vf: vf, rows: name, v2: v2, sem: sem, out: json.NewEncoder(a.out), proofs: newRecordReader(vf.proofs, pf, toploc.RecordSize(vf.p.TopK), 0)}
	if err := v.begin(cmd); err != nil {
		return err
	}
	if err := r.each(cmd, v.push); err != nil {
		return errors.Join(err, v.print())
	}
	return v.end()
}

// A toplocVerifier checks records while the rows stream in.
type toplocVerifier struct {
	vf     *toplocVerifyFlags
	rows   string // file
	sem    toploc.Semantics
	out    *json.Encoder
	proofs *recordReader
	// sels finds each chunk's top under the tie rules that may apply.
	sels   []*toploc.Selector
	judge  *toploc.Judge
	ledger *toplocLedger
	v2     *recordReader // nil unless version 2 records are checked
	proj   *toploc.Projector
	chunks int
	failed int
	// last is the verdict that is printed when the next is there, or the end: that the
	// sequence has more records than chunks is the last chunk's to say.
	last *toplocResult
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
	published := toploc.Published.For(v.vf.p.TopK)
	s := toploc.Strict{Params: v.vf.p, Prefill: published, Decode: published, Seed: v.vf.seed}
	if r := v.vf.rules; r != nil {
		s.Prefill, s.Decode = r.Prefill, r.Decode
	}
	if v.v2 != nil {
		var err error
		if v.proj, err = toploc.NewProjector(*v.vf.rules.Projection, v.vf.p, v.vf.prompt, []byte(v.vf.job)); err != nil {
			return err
		}
	}
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
			return fmt.Errorf("%s: %w", v.rows, err)
		}
	}
	if v.proj != nil && row != nil {
		if _, err := v.proj.Push(row); err != nil {
			return fmt.Errorf("%s: %w", v.rows, err)
		}
	}
	if tops[0] == nil {
		return nil
	}
	v.chunks++
	record, err := v.proofs.next()
	if err == io.EOF {
		err = recordError{fmt.Errorf("%s holds %d records, chunk %d has none", v.vf.proofs, v.proofs.read, v.chunks-1)}
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
	*toploc.ProjectionResult
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
	var proj *toploc.ProjectionResult
	if v.proj != nil {
		r, err := v.projection(top.Prefill)
		var read recordError
		if err != nil && !errors.As(err, &read) {
			return err
		}
		if proj = &r; err != nil && ok {
			ok, reason = false, err.Error()
		}
	}
	if !ok {
		v.failed++
	}
	if err := v.print(); err != nil {
		return err
	}
	v.last = &toplocResult{res, &hits, &ok, &reason, proj}
	return nil
}

// print prints the verdict that was held back, if there is one.
func (v *toplocVerifier) print() error {
	if v.last == nil {
		return nil
	}
	defer func() { v.last = nil }()
	return v.out.Encode(v.last)
}

// projection checks the next version 2 record. What is wrong with it is a
// recordError.
func (v *toplocVerifier) projection(prefill bool) (toploc.ProjectionResult, error) {
	record, err := v.v2.next()
	var bad recordError
	if err != nil && err != io.EOF && !errors.As(err, &bad) {
		return toploc.ProjectionResult{}, err
	}
	if err == io.EOF {
		err = recordError{fmt.Errorf("%s holds %d records: this chunk has none", v.vf.projections, v.v2.read)}
	}
	r, cerr := v.proj.Check(record)
	lim := v.vf.rules.ProjectionDecode
	if prefill {
		lim = v.vf.rules.ProjectionPrefill
	}
	if cerr == nil {
		cerr = lim.Check(r)
	}
	if err == nil && cerr != nil {
		err = recordError{cerr}
	}
	return r, err
}

// end says what is wrong with the sequence as a whole.
func (v *toplocVerifier) end() error {
	var count error
	for _, r := range []*recordReader{v.proofs, v.v2} {
		if r == nil {
			continue
		}
		if err := r.drain(); err != nil {
			return err
		}
		if r.read != v.chunks && count == nil {
			count = fmt.Errorf("%d records in %s for %d chunks", r.read, r.name, v.chunks)
		}
	}
	if count != nil && v.last != nil && *v.last.OK {
		no, reason := false, count.Error()
		v.last.OK, v.last.Reason = &no, &reason
	}
	if err := errors.Join(v.print(), count); err != nil {
		return err
	}
	if v.failed > 0 {
		return fmt.Errorf("%d of %d chunks fail", v.failed, v.chunks)
	}
	if v.ledger != nil {
		return v.ledger.save()
	}
	return nil
}
