package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A base is what a manifest's model.base names, the checkpoint that a run starts
// from: a flat UnixFS directory with weights as Hugging Face has them, in one file or
// in shards, of any precision, or a state of another run. Where it has a config.json, that
// must compute as the manifest's model does. Its other files count for nothing here: a
// tokenizer and a chat template, say, make it a model by itself.

// BaseLimit bounds the bytes of a base with these tensors: as float64 and as what
// comes with them, a tokenizer and momentum say.
func BaseLimit(tensors []hf.Tensor) int64 {
	n := int64(0)
	for _, t := range tensors {
		n += int64(t.Len())
	}
	return 8*n + 1024*int64(len(tensors)) + 128<<20
}

// CheckBase refuses a base whose config.json, if it has one, is that of a model which
// computes otherwise than cfg: equal shapes do not show it.
func CheckBase(config []byte, cfg hf.Config) error {
	if config == nil {
		return nil
	}
	was, err := hf.ParseConfig(config)
	if err != nil {
		return err
	}
	if field, here, there := manifest.ConfigOf(was).Differs(manifest.ConfigOf(cfg)); field != "" {
		return fmt.Errorf("%s: %s is %s, in the manifest's model.config it is %s", ConfigFile, field, here, there)
	}
	return nil
}

// maxConfig bounds a base's config.json, in bytes.
const maxConfig = 1 << 20

// BaseWeights reads the weights of a base of a model of cfg in the order of its tensors,
// widened to float32. It is fetched where it is not held, config.json first: what is
// refused by that is not fetched. progress, if not nil, is told
// how many bytes of it are there.
func BaseWeights(ctx context.Context, b Blocks, base wire.CID, cfg hf.Config, from []wire.PeerID, progress func(done, total int64)) ([]float32, error) {
	params, err := baseWeights(ctx, b, base, cfg, from, progress)
	if err != nil {
		return nil, fmt.Errorf("model.base %s: %w", base, err)
	}
	return params, nil
}

func baseWeights(ctx context.Context, b Blocks, base wire.CID, cfg hf.Config, from []wire.PeerID, progress func(done, total int64)) ([]float32, error) {
	tensors := cfg.Tensors()
	limit := BaseLimit(tensors)
	config, err := b.FetchEntry(ctx, base, ConfigFile, from, maxConfig)
	if err != nil {
		return nil, err
	}
	if err := CheckBase(config, cfg); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadContent, err)
	}
	if err := b.FetchDir(ctx, base, from, limit, progress); err != nil {
		return nil, err
	}
	files, err := b.OpenDir(ctx, base, limit)
	if err != nil {
		return nil, err
	}
	params, err := flatBase(files, tensors)
	if err != nil {
		return nil, badContent(err)
	}
	return params, nil
}

func flatBase(files map[string]*io.SectionReader, tensors []hf.Tensor) ([]float32, error) {
	read := func(name string) (*hf.File, error) {
		r, ok := files[name]
		if !ok {
			return nil, errors.New("it holds no " + name)
		}
		f, err := hf.OpenSafetensors(r, r.Size())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return f, nil
	}
	var f *hf.File
	var err error
	index := files[ShardIndexFile]
	if _, whole := files[WeightsFile]; whole || index == nil { // of the same, where there are both
		f, err = read(WeightsFile)
	} else {
		var b []byte
		if b, err = hf.ReadShardIndex(index); err == nil {
			f, err = hf.ReadShards(b, read)
		}
	}
	if err != nil {
		return nil, err
	}
	return f.Flat(tensors)
}

const basePin = "run/base"

// keepBase pins the base, if there is one and it is still here: who comes later
// begins with it, too, and need not find the one who published the run.
func (p *parts) keepBase() error {
	base := p.manifest.Model.Base
	if !base.Defined() {
		return nil
	}
	err := p.keeper.pin(basePin, base)
	if errors.Is(err, ErrNotFound) { // an earlier version let it go
		return nil
	}
	return err
}
