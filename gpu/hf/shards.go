package hf

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

const (
	maxIndex  = 64 << 20 // bytes of model.safetensors.index.json
	maxShards = 4096
)

// A ShardIndex is model.safetensors.index.json: which file holds which tensor.
type ShardIndex struct {
	Files   []string          // names beside the index, sorted
	Tensors map[string]string // by tensor: its file
}

// ReadShardIndex reads the bytes of an index, if they are not too many.
func ReadShardIndex(r *io.SectionReader) ([]byte, error) {
	if r.Size() > maxIndex {
		return nil, fmt.Errorf("safetensors index: %d bytes are over the limit of %d", r.Size(), maxIndex)
	}
	b := make([]byte, r.Size())
	if err := readAt(r, b, 0); err != nil {
		return nil, fmt.Errorf("safetensors index: %w", err)
	}
	return b, nil
}

// ParseShardIndex reads model.safetensors.index.json. A file's name that leads
// out of the directory is refused.
func ParseShardIndex(b []byte) (*ShardIndex, error) {
	if len(b) > maxIndex {
		return nil, fmt.Errorf("safetensors index: %d bytes are over the limit of %d", len(b), maxIndex)
	}
	var j struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("safetensors index: %w", err)
	}
	if len(j.WeightMap) == 0 || len(j.WeightMap) > maxTensors {
		return nil, fmt.Errorf("safetensors index: weight_map has %d tensors, want 1 to %d", len(j.WeightMap), maxTensors)
	}
	out := &ShardIndex{Tensors: j.WeightMap}
	seen := map[string]bool{}
	for tensor, file := range j.WeightMap {
		if file != path.Base(file) || !strings.HasSuffix(file, ".safetensors") || strings.ContainsAny(file, "\\:\x00") || len(file) > 255 {
			return nil, fmt.Errorf("safetensors index: tensor %.80q lies in %.80q, want the name of a .safetensors file beside it", tensor, file)
		}
		seen[file] = true
	}
	if len(seen) > maxShards {
		return nil, fmt.Errorf("safetensors index: %d files, at most %d", len(seen), maxShards)
	}
	for file := range seen {
		out.Files = append(out.Files, file)
	}
	slices.Sort(out.Files)
	return out, nil
}

// ReadShards is the File of all files that an index names; read reads one of them.
func ReadShards(index []byte, read func(name string) (*File, error)) (*File, error) {
	x, err := ParseShardIndex(index)
	if err != nil {
		return nil, err
	}
	files := map[string]*File{}
	for _, name := range x.Files {
		if files[name], err = read(name); err != nil {
			return nil, err
		}
	}
	return x.Join(files)
}

// Join makes one File of the files of x, by name: each tensor must be in the
// file that x says, and nowhere else.
func (x *ShardIndex) Join(files map[string]*File) (*File, error) {
	out := &File{}
	for _, name := range x.Files {
		f := files[name]
		if f == nil {
			return nil, fmt.Errorf("safetensors: shard %.80q is missing", name)
		}
		for _, t := range f.Tensors {
			if x.Tensors[t.Name] != name {
				return nil, fmt.Errorf("safetensors: %.80q holds tensor %.80q, the index has it in %.80q", name, t.Name, x.Tensors[t.Name])
			}
		}
		out.Tensors = append(out.Tensors, f.Tensors...)
	}
	if len(out.Tensors) != len(x.Tensors) {
		return nil, fmt.Errorf("safetensors: the shards hold %d tensors, the index names %d", len(out.Tensors), len(x.Tensors))
	}
	slices.SortFunc(out.Tensors, func(a, b Stored) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
