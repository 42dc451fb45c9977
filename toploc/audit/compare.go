package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/shoalnet/shoal/toploc"
)

// A Snapshot holds the numbers of a saved trainer.
type Snapshot struct {
	Steps         uint64
	Params        []float32
	First, Second []float32 // Adam's moments; nil where an engine has none
}

// Limits are the most that an honest trainer on another engine may differ by.
// README.md tells how they were found. Equal engines must agree in bits.
type Limits struct {
	Proof toploc.Limits // of one TOPLOC record, for k = TopK
	// Of the end of a segment: the distance of the weights, over how far the
	// segment moved them; of Adam's moments, over their own length.
	Weights, First, Second float64
}

// The largest distances. TestDrift sees that the engines that there are stay
// below half of each, and that no forgery of its does.
const (
	limitWeights = 0.02
	limitFirst   = 0.02
	limitSecond  = 0.02
)

// NewLimits are the limits of a run whose manifest allows so many exponents to
// differ of TopK, and mantissas by so much in the mean and median.
func NewLimits(exponents uint64, mean, median float64) Limits {
	p := toploc.Published
	p.ExpMismatches, p.MantErrMean, p.MantErrMedian = int(min(exponents, TopK)), mean, median
	return Limits{Proof: p, Weights: limitWeights, First: limitFirst, Second: limitSecond}
}

// A Number is one thing that was measured, and how large it may be.
type Number struct {
	Name  string  `cbor:"name" json:"name"`
	Value float64 `cbor:"value" json:"value"`
	Limit float64 `cbor:"limit" json:"limit"`
}

// over says what is wrong with a number.
func (n Number) over() error {
	if n.Value <= n.Limit {
		return nil
	}
	return fmt.Errorf("%s is %.4g, at most %.4g is honest", n.Name, n.Value, n.Limit)
}

// unmeasurable stands for a distance that is not finite: canonical bytes hold no infinity.
const unmeasurable = math.MaxFloat64

// distance is ‖a−b‖ over ‖c−d‖; c and d may be nil for zeros.
func distance(a, b, c, d []float32) float64 {
	norm := func(a, b []float32) float64 {
		sum := 0.0
		for i, x := range a {
			v := float64(x)
			if b != nil {
				v -= float64(b[i])
			}
			sum += float64(v * v)
		}
		return math.Sqrt(sum)
	}
	num := norm(a, b)
	if num == 0 {
		return 0
	}
	r := num / norm(c, d)
	if math.IsNaN(r) || math.IsInf(r, 0) {
		return unmeasurable
	}
	return r
}

// CompareEnds compares the end of a segment as replayed with what the trainer
// says it was. start are the weights that the segment began with. The error says which
// limit is passed.
func CompareEnds(start []float32, own, theirs Snapshot, l Limits) ([]Number, error) {
	if own.Steps != theirs.Steps {
		return nil, fmt.Errorf("the snapshot has done %d steps since it began, a replay %d", theirs.Steps, own.Steps)
	}
	for _, p := range [][2][]float32{{own.Params, theirs.Params}, {own.First, theirs.First}, {own.Second, theirs.Second}} {
		if len(p[0]) != len(p[1]) {
			return nil, errors.New("the snapshot is of another size")
		}
	}
	if len(start) != len(own.Params) {
		return nil, errors.New("the snapshot is of another size than the state")
	}
	out := []Number{
		{"distance of the weights", distance(own.Params, theirs.Params, own.Params, start), l.Weights},
		{"distance of the first moments", distance(own.First, theirs.First, own.First, nil), l.First},
		{"distance of the second moments", distance(own.Second, theirs.Second, own.Second, nil), l.Second},
	}
	for _, n := range out {
		if err := n.over(); err != nil {
			return out, err
		}
	}
	return out, nil
}

// A Prover makes TOPLOC records of hidden states. The zero value is ready; it is
// for one goroutine.
type Prover struct{ bits []uint16 }

func (p *Prover) round(rows []float32, width int) (toploc.Params, error) {
	if width < 1 || len(rows) == 0 || len(rows)%width != 0 {
		return toploc.Params{}, fmt.Errorf("%d hidden values are no rows of %d", len(rows), width)
	}
	if cap(p.bits) < len(rows) {
		p.bits = make([]uint16, len(rows))
	}
	p.bits = p.bits[:len(rows)]
	toploc.RoundBF16(p.bits, rows)
	return toploc.Params{Hidden: width, TopK: topK(width), Batch: len(rows) / width}, nil
}

// Append appends the record of the rows of one batch.
func (p *Prover) Append(b []byte, rows []float32, width int) ([]byte, error) {
	params, err := p.round(rows, width)
	if err != nil {
		return b, err
	}
	proof, err := toploc.BuildChunk(params, p.bits)
	if err != nil {
		return b, err
	}
	return proof.AppendBinary(b), nil
}

// Judge holds a record against the rows of a replay. The seed draws control
// points: who made the record must not have known it.
func (p *Prover) Judge(record []byte, rows []float32, width int, seed uint64, l Limits) ([]Number, error) {
	params, err := p.round(rows, width)
	if err != nil {
		return nil, err
	}
	lim := l.Proof.For(params.TopK)
	proof, err := toploc.BuildChunk(params, p.bits)
	if err != nil {
		return nil, err
	}
	own := proof.AppendBinary(nil)
	if bytes.Equal(own, record) {
		return nil, nil // the control points would convict activations that are all alike
	}
	strict := toploc.Strict{Params: params, Prefill: lim, Decode: lim, Seed: seed}
	judge := func(record []byte) (toploc.ChunkVerdict, error) {
		v, err := strict.Verify([][]byte{record}, p.bits, 0)
		if err != nil {
			return toploc.ChunkVerdict{}, err
		}
		return v[0], nil
	}
	if mine, err := judge(own); err != nil {
		return nil, err
	} else if !mine.OK { // they are, or nearly: only the values can be compared
		strict.MaxControlHits = 1 << 12
	}
	r, err := judge(record)
	if err != nil {
		return nil, err
	}
	out := []Number{
		{"exponents that differ", float64(r.ExpMismatches), float64(lim.ExpMismatches)},
		{"mean mantissa error", min(r.MantErrMean, 1<<32), lim.MantErrMean},
	}
	if !r.OK {
		return out, errors.New(r.Reason)
	}
	return out, nil
}

// SameProofs holds the proofs of a segment against those of a replay on an equal
// engine, records of that size.
func SameProofs(own, theirs []byte, size int) error {
	if bytes.Equal(own, theirs) {
		return nil
	}
	if len(own) != len(theirs) {
		return fmt.Errorf("%d bytes of proofs, a replay makes %d", len(theirs), len(own))
	}
	for i := 0; i+size <= len(own); i += size {
		if !bytes.Equal(own[i:i+size], theirs[i:i+size]) {
			return fmt.Errorf("the proof of step %d of the segment is not that of a replay on the same engine", i/size+1)
		}
	}
	return errors.New("the proofs are not those of a replay")
}

// A Probe is where a validator shows that it replayed: after a step of the
// segment it computes the last hidden states of windows that nobody else knew would be
// asked for.
type Probe struct {
	After   uint64   // inner steps of the segment, from 1
	Windows []uint64 // of the training split
	Seed    uint64   // for the control points of who checks it
}

// ProbeFor draws a probe from a seed: of a segment of so many steps, n windows of
// those that there are.
func ProbeFor(seed [32]byte, steps, windows uint64, n int) Probe {
	draw := func(i uint64) uint64 {
		h := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("shoal/audit probe/1"), seed[:]...), i))
		return binary.BigEndian.Uint64(h[:])
	}
	p := Probe{After: 1 + draw(0)%max(steps, 1), Windows: make([]uint64, n)}
	for i := range p.Windows {
		p.Windows[i] = draw(uint64(i)+2) % max(windows, 1)
	}
	// Made of the seed and more, so that a prover who picks a record for one check
	// picks blindly.
	p.Seed = draw(1)
	return p
}
