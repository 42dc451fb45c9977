package hf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	from  io.ReaderAt
	at    int64 // its first byte in from
}

// A File is a safetensors file whose header is decoded. Its tensors stay where they
// are until they are read.
type File struct {
	Metadata map[string]string
	Tensors  []Stored // sorted by name
}

// WriteSafetensors returns the safetensors file of a flat parameter vector:
// F32, sorted by name, the header padded with spaces to a multiple of 8. The
// same tensors and values give the same bytes everywhere. The tensors must be
// sorted by name and add up to len(flat), as those of Config.Tensors do.
func WriteSafetensors(tensors []Tensor, flat []float32) ([]byte, error) {
	return written(Safetensors(tensors, flat))
}

// WriteOuter returns outer.safetensors: the outer momentum under the names of
// the tensors that it belongs to. Its metadata keep it from being taken for a
// model.
func WriteOuter(tensors []Tensor, momentum []float32) ([]byte, error) {
	return written(Outer(tensors, momentum))
}

func written(r *io.SectionReader, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	b := make([]byte, r.Size())
	_, err = io.ReadFull(r, b)
	return b, err
}

// Safetensors is what WriteSafetensors returns, made as it is read: flat must stay as it is
// until then.
func Safetensors(tensors []Tensor, flat []float32) (*io.SectionReader, error) {
	return encodeSafetensors(map[string]string{"format": "pt"}, tensors, flat)
}

// Outer does so for WriteOuter.
func Outer(tensors []Tensor, momentum []float32) (*io.SectionReader, error) {
	return encodeSafetensors(map[string]string{"format": "pt", "shoal": "outer momentum"}, tensors, momentum)
}

func encodeSafetensors(meta map[string]string, tensors []Tensor, flat []float32) (*io.SectionReader, error) {
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
	head := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+h.Len()), uint64(h.Len()))
	e := &encoded{append(head, h.Bytes()...), flat}
	return io.NewSectionReader(e, 0, int64(len(e.head))+4*int64(len(flat))), nil
}

// encoded reads as a safetensors file.
type encoded struct {
	head []byte
	flat []float32
}

// ReadAt implements io.ReaderAt.
func (e *encoded) ReadAt(b []byte, at int64) (n int, err error) {
	if h := int64(len(e.head)); at < h {
		n = copy(b, e.head[at:])
		at, b = h, b[n:]
	}
	at -= int64(len(e.head))
	for len(b) > 0 && at/4 < int64(len(e.flat)) {
		if at%4 == 0 && len(b) >= 4 { // whole numbers
			part := e.flat[at/4 : min(int64(len(e.flat)), at/4+int64(len(b)/4))]
			for i, v := range part {
				binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
			}
			k := 4 * len(part)
			at, b, n = at+int64(k), b[k:], n+k
			continue
		}
		var one [4]byte
		binary.LittleEndian.PutUint32(one[:], math.Float32bits(e.flat[at/4]))
		k := copy(b, one[at%4:])
		at, b, n = at+int64(k), b[k:], n+k
	}
	if len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// ReadSafetensors is OpenSafetensors of a file in memory.
func ReadSafetensors(b []byte) (*File, error) {
	return OpenSafetensors(bytes.NewReader(b), int64(len(b)))
}

// OpenSafetensors parses the header of a safetensors file of size bytes and checks
// everything that it claims: sizes against shapes and types, no gap, overlap or
// trailing byte, no duplicate name. Element types that are not a whole number
// of bytes are refused. The tensors are read from r when they are wanted.
func OpenSafetensors(r io.ReaderAt, size int64) (*File, error) {
	first := make([]byte, min(max(size, 0), 512))
	if err := readAt(r, first, 0); err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	if pointer(first) {
		return nil, fmt.Errorf("safetensors: %w", errLFS)
	}
	if size < 8 {
		return nil, fmt.Errorf("safetensors: %d bytes are too few", size)
	}
	n := binary.LittleEndian.Uint64(first)
	if n > maxHeader || n > uint64(size-8) {
		return nil, fmt.Errorf("safetensors: header of %d bytes in a file of %d (limit %d)", n, size, maxHeader)
	}
	head, data := make([]byte, n), uint64(size)-8-n
	if err := readAt(r, head, 8); err != nil {
		return nil, fmt.Errorf("safetensors: header: %w", err)
	}
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
		if e.Offsets[1] > data {
			return nil, fmt.Errorf("safetensors: tensor %.80q ends at byte %d of %d: the file is cut short", e.name, e.Offsets[1], data)
		}
		at = e.Offsets[1]
	}
	if at != data {
		return nil, fmt.Errorf("safetensors: %d bytes after the last tensor", data-at)
	}
	out := &File{Metadata: f.meta, Tensors: make([]Stored, len(f.entries))}
	for i, e := range f.entries {
		shape := make([]int, len(e.Shape))
		for k, d := range e.Shape {
			shape[k] = int(d) // at most the file's size: checked by size, or 0 elements
		}
		out.Tensors[i] = Stored{Tensor{e.name, shape}, e.Dtype, r, int64(8 + n + e.Offsets[0])}
	}
	slices.SortFunc(out.Tensors, func(a, b Stored) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// ErrRead is wrapped by what says that a file could not be read, whatever is in it.
var ErrRead = errors.New("cannot be read")

// readAt fills b. Where r ends before that, the file is shorter than it was said to be.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrRead, err)
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
