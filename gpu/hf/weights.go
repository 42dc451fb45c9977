package hf

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Values are a model's parameters, wherever they are.
type Values interface {
	// Read sets out to elements of tensor i of Config.Tensors, from number on.
	Read(i int, out []float32, number int) error
}

// A Vector is the Values in a flat vector: tensors one after another.
type Vector struct {
	tensors []Tensor
	flat    []float32
	start   []int
}

// NewVector makes Values of a flat vector in the layout of tensors, which is not copied.
func NewVector(tensors []Tensor, flat []float32) (*Vector, error) {
	v, at := &Vector{tensors: tensors, flat: flat, start: make([]int, len(tensors))}, 0
	for i, t := range tensors {
		v.start[i] = at
		at += t.Len()
	}
	if at != len(flat) {
		return nil, fmt.Errorf("%d parameters, the tensors have %d", len(flat), at)
	}
	return v, nil
}

// Read implements Values.
func (v *Vector) Read(i int, out []float32, number int) error {
	copy(out, v.flat[v.start[i]+number:])
	return nil
}

// BF16 says whether all values of matrices are in bfloat16, so that rounding to it changes nothing.
func (v *Vector) BF16() bool {
	for i, t := range v.tensors {
		if len(t.Shape) < 2 {
			continue
		}
		for _, x := range v.flat[v.start[i]:][:t.Len()] {
			if math.Float32bits(x)&0xffff != 0 {
				return false
			}
		}
	}
	return true
}

// Weights are the Values that lie in files, which were found to be those of a model.
type Weights struct {
	tensors []Tensor
	stored  []*Stored
}

// Where a tied model's matrix of tokens may lie.
const (
	embedName = "model.embed_tokens.weight"
	headName  = "lm_head.weight"
)

// Weights finds tensors (see Config.Tensors) in the file. Every tensor must be there
// with its shape, and be the only ones, except that a file may hold a tied embedding as
// lm_head.weight, too or instead, and hold the frequencies of RoPE, as
// transformers once wrote them. In a file of a model without a head names lack
// their "model.". Reading refuses what is not finite.
func (f *File) Weights(tensors []Tensor) (*Weights, error) {
	byName, left := make(map[string]*Stored, len(f.Tensors)), make(map[string]bool, len(f.Tensors))
	bare := true
	for i := range f.Tensors {
		s := &f.Tensors[i]
		byName[s.Name] = s
		left[s.Name] = !strings.HasSuffix(s.Name, ".rotary_emb.inv_freq")
		bare = bare && !strings.HasPrefix(s.Name, "model.")
	}
	tied := !slices.ContainsFunc(tensors, func(t Tensor) bool { return t.Name == headName })
	find := func(name string) *Stored {
		s := byName[name]
		if s == nil && bare {
			s = byName[strings.TrimPrefix(name, "model.")]
		}
		if s == nil && tied && name == embedName {
			s = byName[headName]
		}
		return s
	}
	w := &Weights{tensors: tensors, stored: make([]*Stored, len(tensors))}
	for i, t := range tensors {
		s := find(t.Name)
		if s == nil {
			return nil, fmt.Errorf("safetensors: tensor %q is missing", t.Name)
		}
		if !slices.Equal(s.Shape, t.Shape) {
			return nil, fmt.Errorf("safetensors: tensor %q has shape %d, the config says %d", t.Name, s.Shape, t.Shape)
		}
		if !s.real() {
			return nil, fmt.Errorf("safetensors: tensor %q holds %s, weights are F64, F32, BF16, F16 or F8", t.Name, s.Dtype)
		}
		left[s.Name] = false
		w.stored[i] = s
	}
	if head, embed := byName[headName], find(embedName); head != nil && left[head.Name] {
		same := embed != nil && head.Dtype == embed.Dtype && slices.Equal(head.Shape, embed.Shape)
		if same {
			var err error
			if same, err = equal(head, embed); err != nil {
				return nil, err
			}
		}
		if !same {
			return nil, errors.New("safetensors: lm_head.weight is not the embedding, but tie_word_embeddings of the config says that it is")
		}
		left[head.Name] = false
	}
	for _, s := range f.Tensors {
		if left[s.Name] {
			return nil, fmt.Errorf("safetensors: tensor %.80q is not part of the model", s.Name)
		}
	}
	return w, nil
}

// equal says whether two tensors of the same type and shape have the same bytes.
func equal(a, b *Stored) (bool, error) {
	n := int64(a.Len()) * int64(dtypeSize[a.Dtype])
	x, y := make([]byte, min(n, 1<<18)), make([]byte, min(n, 1<<18))
	for at := int64(0); at < n; at += int64(len(x)) {
		x, y = x[:min(int64(len(x)), n-at)], y[:min(int64(len(y)), n-at)]
		if err := readAt(a.from, x, a.at+at); err != nil {
			return false, fmt.Errorf("safetensors: tensor %q: %w", a.Name, err)
		}
		if err := readAt(b.from, y, b.at+at); err != nil {
			return false, fmt.Errorf("safetensors: tensor %q: %w", b.Name, err)
		}
		if !bytes.Equal(x, y) {
			return false, nil
		}
	}
	return true, nil
}

// Read implements Values.
func (w *Weights) Read(i int, out []float32, number int) error {
	s := w.stored[i]
	if err := s.read(out, number); err != nil {
		return err
	}
	for j, v := range out {
		if v-v != 0 {
			return fmt.Errorf("safetensors: tensor %q: element %d is not finite", w.tensors[i].Name, number+j)
		}
	}
	return nil
}

// BF16 says whether all matrices are stored in bfloat16, so that rounding to it
// changes nothing.
func (w *Weights) BF16() bool {
	for _, s := range w.stored {
		if len(s.Shape) > 1 && s.Dtype != "BF16" {
			return false
		}
	}
	return true
}

// Bytes is what the tensors take where they are stored.
func (w *Weights) Bytes() (n int64) {
	for _, s := range w.stored {
		n += int64(s.Len()) * int64(dtypeSize[s.Dtype])
	}
	return n
}

// Flat returns all as one flat vector.
func (w *Weights) Flat() ([]float32, error) {
	n := 0
	for _, t := range w.tensors {
		n += t.Len()
	}
	flat := make([]float32, n)
	at := 0
	for i, t := range w.tensors {
		if err := w.Read(i, flat[at:at+t.Len()], 0); err != nil {
			return nil, err
		}
		at += t.Len()
	}
	return flat, nil
}

// Check reads all, and keeps nothing: that everything is there and finite. told, where not nil,
// hears how many bytes are read; its error ends it.
func (w *Weights) Check(told func(done int64) error) error {
	buf, done := make([]float32, 1<<16), int64(0)
	for i, t := range w.tensors {
		for at := 0; at < t.Len(); at += len(buf) {
			part := buf[:min(len(buf), t.Len()-at)]
			if err := w.Read(i, part, at); err != nil {
				return err
			}
			done += int64(len(part)) * int64(dtypeSize[w.stored[i].Dtype])
			if told != nil {
				if err := told(done); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Flat returns the file's values as one flat vector in the layout of tensors: see Weights.
func (f *File) Flat(tensors []Tensor) ([]float32, error) {
	w, err := f.Weights(tensors)
	if err != nil {
		return nil, err
	}
	return w.Flat()
}
