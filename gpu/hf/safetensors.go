package hf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// The safetensors format, as its reference implementation enforces it:
//
//	8 bytes    n, little-endian
//	n bytes    JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {string: string}}
//	the rest   the tensors, little-endian, without gaps, overlaps or trailing bytes
const (
	maxHeader  = 16 << 20 // bytes; 100,000 tensors fit
	maxTensors = 1 << 16
	maxDims    = 8
)

// A Stored is one tensor of a safetensors file.
type Stored struct {
	Tensor
	Dtype string // one of dtypeSize
	data  []byte
}

// A File is a decoded safetensors file. Its tensors point into the bytes that
// it was read from.
type File struct {
	Metadata map[string]string
	Tensors  []Stored // sorted by name
}

// WriteSafetensors returns the safetensors file of a flat parameter vector:
// F32, sorted by name, the header padded with spaces to a multiple of 8. The
// same tensors and values give the same bytes everywhere. The tensors must be
// sorted by name and add up to len(flat), as those of Config.Tensors do.
func WriteSafetensors(tensors []Tensor, flat []float32) ([]byte, error) {
	return writeSafetensors(map[string]string{"format": "pt"}, tensors, flat)
}

// WriteOuter returns outer.safetensors: the outer momentum under the names of
// the tensors that it belongs to. Its metadata keep it from being taken for a
// model.
func WriteOuter(tensors []Tensor, momentum []float32) ([]byte, error) {
	return writeSafetensors(map[string]string{"format": "pt", "shoal": "outer momentum"}, tensors, momentum)
}

func writeSafetensors(meta map[string]string, tensors []Tensor, flat []float32) ([]byte, error) {
	var h bytes.Buffer
	h.WriteString(`{"__metadata__":`)
	m, err := json.Marshal(meta) // map keys come out sorted
	if err != nil {
		return nil, fmt.Errorf("safetensors metadata: %w", err)
	}
	h.Write(m)
	at := 0
	for i, t := range tensors {
		if i > 0 && tensors[i-1].Name >= t.Name {
			return nil, fmt.Errorf("safetensors: tensor %q is not sorted by name", t.Name)
		}
		name, err := json.Marshal(t.Name)
		if err != nil {
			return nil, fmt.Errorf("safetensors: tensor %q: %w", t.Name, err)
		}
		shape, err := json.Marshal(append([]int{}, t.Shape...))
		if err != nil {
			return nil, fmt.Errorf("safetensors: tensor %q: %w", t.Name, err)
		}
		end := at + 4*t.Len()
		fmt.Fprintf(&h, `,%s:{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}`, name, shape, at, end)
		at = end
	}
	h.WriteByte('}')
	for h.Len()%8 != 0 {
		h.WriteByte(' ')
	}
	if at != 4*len(flat) {
		return nil, fmt.Errorf("safetensors: tensors have %d elements, the vector %d", at/4, len(flat))
	}
	out := make([]byte, 0, 8+h.Len()+at)
	out = binary.LittleEndian.AppendUint64(out, uint64(h.Len()))
	out = append(out, h.Bytes()...)
	for _, v := range flat {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out, nil
}

// ReadSafetensors parses a whole safetensors file and checks everything that
// its header claims: sizes against shapes and types, no gap, overlap or
// trailing byte, no duplicate name. Element types that are not a whole number
// of bytes are refused.
func ReadSafetensors(b []byte) (*File, error) {
	if pointer(b) {
		return nil, fmt.Errorf("safetensors: %w", errLFS)
	}
	if len(b) < 8 {
		return nil, fmt.Errorf("safetensors: %d bytes are too few", len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	if n > maxHeader || n > uint64(len(b)-8) {
		return nil, fmt.Errorf("safetensors: header of %d bytes in a file of %d (limit %d)", n, len(b), maxHeader)
	}
	head, data := b[8:8+n], b[8+n:]
	f, err := parseHeader(head)
	if err != nil {
		return nil, fmt.Errorf("safetensors header: %w", err)
	}
	order := make([]*header, len(f.entries))
	for i := range f.entries {
		order[i] = &f.entries[i]
	}
	slices.SortFunc(order, func(a, b *header) int {
		if c := compare(a.Offsets[0], b.Offsets[0]); c != 0 {
			return c
		}
		return compare(a.Offsets[1], b.Offsets[1]) // an empty tensor before its neighbour
	})
	var at uint64
	for _, e := range order {
		size, err := e.size()
		if err != nil {
			return nil, fmt.Errorf("safetensors: tensor %.80q: %w", e.name, err)
		}
		if e.Offsets[0] != at || e.Offsets[1] < at || e.Offsets[1]-at != size {
			return nil, fmt.Errorf("safetensors: tensor %.80q: bytes %d to %d, want %d to %d", e.name, e.Offsets[0], e.Offsets[1], at, at+size)
		}
		if e.Offsets[1] > uint64(len(data)) {
			return nil, fmt.Errorf("safetensors: tensor %.80q ends at byte %d of %d: the file is cut short", e.name, e.Offsets[1], len(data))
		}
		at = e.Offsets[1]
	}
	if at != uint64(len(data)) {
		return nil, fmt.Errorf("safetensors: %d bytes after the last tensor", uint64(len(data))-at)
	}
	out := &File{Metadata: f.meta, Tensors: make([]Stored, len(f.entries))}
	for i, e := range f.entries {
		shape := make([]int, len(e.Shape))
		for k, d := range e.Shape {
			shape[k] = int(d) // at most len(data): checked by size, or 0 elements
		}
		out.Tensors[i] = Stored{Tensor{e.name, shape}, e.Dtype, data[e.Offsets[0]:e.Offsets[1]]}
	}
	slices.SortFunc(out.Tensors, func(a, b Stored) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// header is the description of one tensor.
type header struct {
	name    string
	Dtype   string
	Shape   []uint64
	Offsets []uint64
}

// parse reads {"dtype", "shape", "data_offsets"}, each exactly once. (The
// struct decoder of encoding/json would take "DTYPE" too, and the last of two.)
func (e *header) parse(d *json.Decoder) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("it is not an object")
	}
	seen := map[string]bool{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := k.(string)
		if seen[key] {
			return fmt.Errorf("%q occurs twice", key)
		}
		seen[key] = true
		switch key {
		case "dtype":
			err = d.Decode(&e.Dtype)
		case "shape":
			err = d.Decode(&e.Shape)
		case "data_offsets":
			err = d.Decode(&e.Offsets)
		default:
			err = errors.New("unknown key")
		}
		if err != nil {
			return fmt.Errorf("%.40q: %w", key, err)
		}
	}
	if _, err := d.Token(); err != nil {
		return err
	}
	if e.Shape == nil || len(e.Shape) > maxDims || len(e.Offsets) != 2 {
		return fmt.Errorf("needs a shape of at most %d dimensions and two data_offsets", maxDims)
	}
	return nil
}

type parsed struct {
	meta    map[string]string
	entries []header
}

// maxElements bounds every dimension and every product of dimensions, so that
// byte counts fit an int on every platform that can hold the file.
const maxElements = 1 << 42

func (e *header) size() (uint64, error) {
	w, ok := dtypeSize[e.Dtype]
	if !ok {
		return 0, fmt.Errorf("dtype %.20q is not known", e.Dtype)
	}
	n := uint64(1)
	zero := false
	for _, d := range e.Shape {
		if d > maxElements || d > 0 && n > maxElements/d {
			return 0, fmt.Errorf("shape %d is too large", e.Shape)
		}
		if d == 0 {
			zero = true
			continue
		}
		n *= d
	}
	if zero {
		n = 0
	}
	return n * uint64(w), nil
}

// parseHeader walks the JSON by tokens, because duplicate names must not slip by.
func parseHeader(b []byte) (*parsed, error) {
	if len(b) == 0 || b[0] != '{' {
		return nil, errors.New("it does not begin with {")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	out := &parsed{}
	seen := map[string]bool{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := k.(string)
		if !ok {
			return nil, fmt.Errorf("key %v is not a string", k)
		}
		if seen[name] {
			return nil, fmt.Errorf("name %.80q occurs twice", name)
		}
		seen[name] = true
		if name == "__metadata__" {
			if err := d.Decode(&out.meta); err != nil {
				return nil, fmt.Errorf("__metadata__: %w", err)
			}
			continue
		}
		if len(out.entries) == maxTensors {
			return nil, fmt.Errorf("more than %d tensors", maxTensors)
		}
		e := header{name: name}
		if err := e.parse(d); err != nil {
			return nil, fmt.Errorf("tensor %.80q: %w", name, err)
		}
		out.entries = append(out.entries, e)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if rest := b[d.InputOffset():]; len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("text after the closing brace")
	}
	return out, nil
}

// Where a tied model's matrix of tokens may lie.
const (
	embedName = "model.embed_tokens.weight"
	headName  = "lm_head.weight"
)

// Flat returns the file's values as one flat vector in the layout of tensors
// (see Config.Tensors). Every tensor must be there with its shape, hold finite
// values, and be the only ones, except that a file may hold a tied embedding as
// lm_head.weight, too or instead, and hold the frequencies of RoPE, as
// transformers once wrote them. In a file of a model without a head names lack
// their "model.".
func (f *File) Flat(tensors []Tensor) ([]float32, error) {
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
	n := 0
	for _, t := range tensors {
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
		n += t.Len()
	}
	if head, embed := byName[headName], find(embedName); head != nil && left[head.Name] {
		if embed == nil || head.Dtype != embed.Dtype || !slices.Equal(head.Shape, embed.Shape) || !bytes.Equal(head.data, embed.data) {
			return nil, errors.New("safetensors: lm_head.weight is not the embedding, but tie_word_embeddings of the config says that it is")
		}
		left[head.Name] = false
	}
	for _, s := range f.Tensors {
		if left[s.Name] {
			return nil, fmt.Errorf("safetensors: tensor %.80q is not part of the model", s.Name)
		}
	}
	flat := make([]float32, n)
	at := 0
	for _, t := range tensors {
		part := flat[at : at+t.Len()]
		find(t.Name).into(part)
		for i, v := range part {
			if v-v != 0 {
				return nil, fmt.Errorf("safetensors: tensor %q: element %d is not finite", t.Name, i)
			}
		}
		at += len(part)
	}
	return flat, nil
}
