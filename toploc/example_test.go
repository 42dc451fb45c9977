package toploc_test

import (
	"fmt"
	"math/rand/v2"

	"github.com/shoalnet/shoal/toploc"
)

// rows stands for a model's last hidden states: tokens rows of hidden values.
func rows(tokens, hidden int) []uint16 {
	r := rand.New(rand.NewPCG(1, 2))
	f, a := make([]float32, tokens*hidden), make([]uint16, tokens*hidden)
	for i := range f {
		f[i] = float32(r.NormFloat64())
	}
	toploc.RoundBF16(a, f)
	return a
}

// A prover takes each token's row as the model makes it, and keeps none.
func ExampleProver() {
	p := toploc.Default(896)
	a := rows(40, p.Hidden)
	prover, err := toploc.NewProver(p, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	var records [][]byte
	for i := 0; i < len(a); i += p.Hidden {
		proof, err := prover.Push(a[i : i+p.Hidden])
		if err != nil {
			fmt.Println(err)
			return
		}
		if proof != nil {
			records = append(records, proof.AppendBinary(nil))
		}
	}
	if last, err := prover.Flush(); err == nil && last != nil {
		records = append(records, last.AppendBinary(nil))
	}
	fmt.Println(len(records), "records of", len(records[0]), "bytes")
	// Output: 2 records of 258 bytes
}

// A verifier with the model computes the rows itself and judges each chunk.
func ExampleStrict() {
	p := toploc.Default(896)
	own := rows(40, p.Hidden)
	proofs, err := toploc.Build(p, own, 0) // an honest prover's
	if err != nil {
		fmt.Println(err)
		return
	}
	records := [][]byte{proofs[0].AppendBinary(nil), make([]byte, toploc.RecordSize(p.TopK))}

	judge := toploc.Strict{Params: p, Prefill: toploc.Published, Decode: toploc.Published, Seed: rand.Uint64()}
	verdicts, err := judge.Verify(records, own, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, v := range verdicts {
		fmt.Printf("%d %t %q\n", i, v.OK, v.Reason)
	}
	// Output:
	// 0 true ""
	// 1 false "null proof: its builder failed"
}

// Whoever has the logits can say which token had to be drawn.
func ExampleSampler() {
	s, err := toploc.NewSampler([]byte("job 17"), 0.8)
	if err != nil {
		fmt.Println(err)
		return
	}
	logits := []float32{1.5, 0.2, 1.4, -3}
	token, err := s.Pick(0, logits)
	if err != nil {
		fmt.Println(err)
		return
	}
	again, err := s.Check(0, logits, token)
	fmt.Println(again.Token == token, again.Margin, err)
	// Output: true 0 <nil>
}

// Version 2 records are bound to a job: who has the rows but not the job's name, or
// the name but not the rows, has none that pass.
func ExampleProjector() {
	params := toploc.Default(896)
	a := rows(32, params.Hidden)
	p := toploc.Projection{Values: 8, Bits: 4, Gain: make([]float32, params.Hidden)}
	for c := range p.Gain {
		p.Gain[c] = 20 // a policy has those that calibration measured
	}
	projector := func(job string) *toploc.Projector {
		pr, err := toploc.NewProjector(p, params, 0, []byte(job))
		if err != nil {
			panic(err) // the parameters are wrong
		}
		for i := 0; i < len(a); i += params.Hidden {
			if _, err := pr.Push(a[i : i+params.Hidden]); err != nil {
				panic(err)
			}
		}
		return pr
	}
	record := projector("job 17").Record()
	r, err := projector("job 17").Check(record)
	fmt.Printf("%d bytes, off by %.2f steps, %v\n", len(record), r.Mean, err)
	_, err = projector("job 18").Check(record)
	fmt.Println(err)
	// Output:
	// 144 bytes, off by 0.26 steps, <nil>
	// projection record of another job, chunk or projection
}
