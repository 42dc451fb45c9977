package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/toploc"
)

// maxInspected is the longest record that inspect reads, well above one of top-k
// 4096 and one of a long prompt's projections.
const maxInspected = 1 << 20

// An inspection is what can be said of a record without activations.
type inspection struct {
	Line     int    `json:"line"`
	Version  int    `json:"version"`
	Bytes    int    `json:"bytes"`
	TopK     int    `json:"topk"`
	Modulus  int    `json:"modulus"`
	Degree   int    `json:"degree"` // of the polynomial, -1 where it is zero
	SHA256   string `json:"sha256,omitempty"`
	RepeatOf int    `json:"repeat_of,omitempty"` // line of the same record
	Values   int    `json:"values,omitempty"`    // of version 2: numbers a token,
	Bits     int    `json:"bits,omitempty"`      // their bits,
	Tokens   int    `json:"tokens,omitempty"`    // and the chunk's tokens
	Tag      string `json:"tag,omitempty"`       // of the job and chunk
	OK       bool   `json:"ok"`
	Reason   string `json:"reason"`
}

func (a *app) toplocInspectCmd() *cobra.Command {
	var k int
	c := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what proof records hold, without activations",
		Long: `Reads base64 records of either version, one a line, and says of each what it holds, whether
an honest prover can have written it, and whether it is an earlier line again. Exit code 1
if any is refused.`,
		Example: `  shoal toploc inspect proofs.txt
  shoal toploc inspect --topk 128 --json proofs.txt`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if k < 0 || k > 4096 {
				return usagef("--topk %d: want 1 to 4096, or 0 for any", k)
			}
			f, err := a.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			return a.toplocInspect(args[0], f, k)
		},
	}
	c.Flags().IntVar(&k, "topk", 0, "refuse records of another top-k (default: any)")
	return c
}

func (a *app) toplocInspect(name string, in io.Reader, k int) error {
	size := 0
	if k > 0 {
		size = toploc.RecordSize(k)
	}
	r := newRecordReader(name, in, size, maxInspected)
	seen := map[[32]byte]int{}
	bad := 0
	if !a.json {
		fmt.Fprintf(a.out, "%6s %7s %6s %6s %8s %7s  %-16s %s\n", "line", "version", "bytes", "top-k", "modulus", "degree", "sha-256", "verdict")
	}
	for {
		b, err := r.next()
		if err == io.EOF {
			break
		}
		var line recordError
		if err != nil && !errors.As(err, &line) {
			return err
		}
		v := inspect(b, err)
		v.Line = r.read
		if err == nil {
			id := sha256.Sum256(b)
			v.SHA256 = hex.EncodeToString(id[:])
			if v.RepeatOf = seen[id]; v.RepeatOf == 0 {
				seen[id] = r.read
			} else if v.OK {
				v.OK, v.Reason = false, fmt.Sprintf("line %d again", v.RepeatOf)
			}
		}
		if !v.OK {
			bad++
		}
		if err := a.printInspection(v); err != nil {
			return err
		}
	}
	if r.read == 0 {
		return fmt.Errorf("%s holds no record", name)
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d records are refused", bad, r.read)
	}
	return nil
}

func (a *app) printInspection(v inspection) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(v)
	}
	verdict := "ok"
	if v.Version == 2 {
		verdict = fmt.Sprintf("ok: %d tokens, %d × %d bits each, tag %s", v.Tokens, v.Values, v.Bits, v.Tag)
	}
	if !v.OK {
		verdict = v.Reason
	}
	number := func(n int) string {
		if v.Version == 2 {
			return "–"
		}
		return strconv.Itoa(n)
	}
	verdict = line(verdict)
	_, err := fmt.Fprintf(a.out, "%6d %7d %6d %6s %8s %7s  %-16.16s %s\n", v.Line, v.Version, v.Bytes, number(v.TopK), number(v.Modulus), number(v.Degree), v.SHA256, verdict)
	return err
}

// inspect looks at one record, which err says is none.
func inspect(b []byte, err error) inspection {
	v := inspection{Version: 1, Bytes: len(b), TopK: max(0, len(b)/2-1), Degree: -1}
	if h, ok, herr := toploc.ParseProjectionHeader(b); err == nil && ok {
		v.Version, v.TopK, v.Values, v.Bits, v.Tokens = 2, 0, h.Values, h.Bits, h.Tokens
		if v.OK = herr == nil; herr != nil {
			v.Reason = herr.Error()
		} else {
			v.Tag = hex.EncodeToString(h.Tag[:])
		}
		return v
	}
	if err == nil && (len(b) < 4 || len(b)%2 != 0 || len(b) > toploc.RecordSize(4096)) {
		err = fmt.Errorf("%d bytes are no record: want 2+2k for k of 1 to 4096", len(b))
	}
	var pf *toploc.Proof
	if err == nil {
		v.Modulus = int(b[0])<<8 | int(b[1])
		pf, err = toploc.ParseProof(b, v.TopK)
	}
	if err != nil {
		v.Reason = err.Error()
		return v
	}
	for i, c := range pf.Coeffs {
		if c != 0 {
			v.Degree = i
		}
	}
	v.OK = true
	switch {
	case int(pf.Modulus) < toploc.MinModulus(v.TopK):
		v.OK, v.Reason = false, fmt.Sprintf("modulus %d is below %d: no honest chunk needs it", pf.Modulus, toploc.MinModulus(v.TopK))
	case v.TopK >= 16 && v.Degree < v.TopK/2:
		v.OK, v.Reason = false, fmt.Sprintf("a polynomial of degree %d through %d activations: constant or made up", v.Degree, v.TopK)
	}
	return v
}
