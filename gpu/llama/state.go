package llama

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/shoalnet/shoal/gpu"
	"github.com/shoalnet/shoal/gpu/hf"
)

// A saved trainer, all numbers little-endian:
//
//	 0   8  "SHOALTRN"
//	 8   4  version, 2
//	12   4  zero
//	16  32  SHA-256 of the model's config.json as hf.Config.Marshal writes it
//	48   8  steps done
//	56   8  n, the number of parameters
//	64  4n  parameters, float32
//	    4n  first moments
//	    4n  second moments
//	     4  CRC-32C of all before: against torn files; who does not trust the writer knows it by its CID
const (
	stateMagic   = "SHOALTRN"
	stateVersion = 2
	stateHeader  = 64
	maxSteps     = 1 << 48
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrState is what Load wraps where the bytes are not what Save wrote for
// this model.
var ErrState = errors.New("not this model's training state")

// header is what a state of this trainer begins with, the step count left out.
func (t *Trainer) header() ([]byte, error) { return stateHead(t.cfg) }

func stateHead(cfg hf.Config) ([]byte, error) {
	conf, err := cfg.Marshal()
	if err != nil {
		return nil, fmt.Errorf("llama: config: %w", err)
	}
	sum := sha256.Sum256(conf)
	b := make([]byte, 0, stateHeader)
	b = append(b, stateMagic...)
	b = binary.LittleEndian.AppendUint32(b, stateVersion)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = append(b, sum[:]...)
	b = binary.LittleEndian.AppendUint64(b, 0)
	return binary.LittleEndian.AppendUint64(b, uint64(cfg.NumParams())), nil
}

// Save writes weights, moments and step count. What Load reads back goes on
// bit for bit as if nothing had happened.
func (t *Trainer) Save(w io.Writer) error {
	head, err := t.header()
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(head[48:], t.steps)
	sum := crc32.New(castagnoli)
	out := io.MultiWriter(w, sum)
	if _, err := out.Write(head); err != nil {
		return fmt.Errorf("llama: save: %w", err)
	}
	buf := make([]byte, 1<<16)
	for _, b := range []gpu.Buffer{t.params, t.m, t.v} {
		values := b.Host
		if values == nil {
			values = make([]float32, b.N)
			t.dev.Download(values, b)
		}
		for part := range slices.Chunk(values, len(buf)/4) {
			for i, x := range part {
				binary.LittleEndian.PutUint32(buf[4*i:], math.Float32bits(x))
			}
			if _, err := out.Write(buf[:4*len(part)]); err != nil {
				return fmt.Errorf("llama: save: %w", err)
			}
		}
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("llama: save: %w", err)
	}
	return nil
}

// Load reads what Save wrote for a model of the same configuration, to the end
// of r. On an error the trainer is as before.
func (t *Trainer) Load(r io.Reader) error {
	s, err := ReadState(t.cfg, r)
	if err != nil {
		return err
	}
	for i, b := range []gpu.Buffer{t.params, t.m, t.v} {
		t.dev.Upload(b, s.values()[i])
	}
	t.dev.Zero(t.grads)
	t.steps = s.Steps
	return nil
}

// A State is what a saved trainer holds; its vectors are in the order of
// hf.Config.Tensors.
type State struct {
	Steps         uint64
	Params        []float32
	First, Second []float32 // Adam's moments
}

func (s *State) values() [3][]float32 { return [3][]float32{s.Params, s.First, s.Second} }

// ReadState reads what a trainer of a model of that configuration saved, to the
// end of r.
func ReadState(cfg hf.Config, r io.Reader) (*State, error) {
	want, err := stateHead(cfg)
	if err != nil {
		return nil, err
	}
	n := int(cfg.NumParams())
	sum := crc32.New(castagnoli)
	in := io.TeeReader(r, sum)
	head := make([]byte, stateHeader)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, fmt.Errorf("llama: load: header: %w: %w", ErrState, err)
	}
	steps := binary.LittleEndian.Uint64(head[48:])
	clear(head[48:56])
	switch {
	case !bytes.Equal(head[:8], want[:8]):
		return nil, fmt.Errorf("llama: load: begins with %q: %w", head[:8], ErrState)
	case !bytes.Equal(head[8:16], want[8:16]):
		return nil, fmt.Errorf("llama: load: version %d, this program reads %d: %w",
			binary.LittleEndian.Uint32(head[8:]), stateVersion, ErrState)
	case !bytes.Equal(head, want):
		return nil, fmt.Errorf("llama: load: saved for another model configuration: %w", ErrState)
	case steps > maxSteps:
		return nil, fmt.Errorf("llama: load: %d steps: %w", steps, ErrState)
	}
	var values [3][]float32
	for i, name := range []string{"parameters", "first moments", "second moments"} {
		if values[i], err = readFloats(in, n, i == 2); err != nil {
			return nil, fmt.Errorf("llama: load: %s: %w: %w", name, ErrState, err)
		}
	}
	if err := readSum(r, sum); err != nil {
		return nil, fmt.Errorf("llama: load: %w: %w", ErrState, err)
	}
	return &State{steps, values[0], values[1], values[2]}, nil
}

// readFloats reads n finite numbers. Memory grows with what has been read, to no more than n at the end.
func readFloats(r io.Reader, n int, notNegative bool) ([]float32, error) {
	buf := make([]byte, min(4*n, 1<<16))
	out := make([]float32, 0, min(n, 1<<20))
	for len(out) < n {
		part := buf[:min(len(buf), 4*(n-len(out)))]
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, err
		}
		if need := len(out) + len(part)/4; need > cap(out) {
			more := make([]float32, len(out), min(n, 2*need))
			copy(more, out)
			out = more
		}
		for i := 0; i < len(part); i += 4 {
			x := math.Float32frombits(binary.LittleEndian.Uint32(part[i:]))
			if !finite(float64(x)) || (notNegative && x < 0) {
				return nil, fmt.Errorf("value %d is %g", len(out), x)
			}
			out = append(out, x)
		}
	}
	return out, nil
}

// readSum compares the checksum that ends a state with sum, and wants the end.
func readSum(r io.Reader, sum hash.Hash) error {
	var got [crc32.Size + 1]byte
	n, err := io.ReadFull(r, got[:])
	if n < crc32.Size {
		return fmt.Errorf("checksum: %w", err)
	}
	if n > crc32.Size {
		return errors.New("bytes follow the checksum")
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if !bytes.Equal(got[:n], sum.Sum(nil)) {
		return errors.New("the checksum does not fit")
	}
	return nil
}
