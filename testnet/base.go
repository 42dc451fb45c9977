package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// prepareBase puts the model that the run goes on from into the first peer's store, from
// where the others fetch it, and names it in the manifest.
func (s *swarm) prepareBase(ctx context.Context) error {
	dir := s.Config.Base
	if !filepath.IsAbs(dir) {
		if s.Root == "" {
			return fmt.Errorf("testnet: base: %s is beside no file: give the whole path", dir)
		}
		dir = filepath.Join(s.Root, dir)
	}
	s.Line("putting " + s.Config.Base + " into the first peer's store")
	from, err := s.launcher.output(ctx, s.log("prepare"), "manifest", "init", "--from", dir, "--dir", s.peers[0].dir)
	if err != nil {
		return fmt.Errorf("testnet: base: %w", err)
	}
	raw, err := os.ReadFile(s.path(manifestFile))
	if err != nil {
		return err
	}
	if raw, err = goOn(raw, from); err != nil {
		return fmt.Errorf("testnet: base: %w", err)
	}
	return os.WriteFile(s.path(manifestFile), raw, 0o644)
}

// goOn gives a manifest the model and tokenizer of another one, which was made of a base.
// It may have them already: the same.
func goOn(raw, from []byte) ([]byte, error) {
	run, err := mapping(raw)
	if err != nil {
		return nil, err
	}
	of, err := mapping(from)
	if err != nil {
		return nil, err
	}
	base := entry(entry(of, "model"), "base")
	if base == nil {
		return nil, errors.New("the model has no name")
	}
	model := entry(run, "model")
	switch was := entry(model, "base"); {
	case was != nil && was.Value != base.Value:
		return nil, fmt.Errorf("the manifest's model.base is %s, this model is %s", was.Value, base.Value)
	case was == nil && entry(model, "config") != nil:
		return nil, errors.New("the manifest has a model.config of its own: leave model out, what it is follows from its config.json")
	case was == nil:
		put(run, "model", entry(of, "model"))
	}
	if t := entry(run, "tokenizer"); t == nil || t.Value == "" {
		put(run, "tokenizer", entry(of, "tokenizer"))
	}
	if entry(run, "data") == nil { // for data prepare to fill in
		put(run, "data", &yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle})
	}
	return yaml.Marshal(run)
}

// mapping parses a YAML document that is a mapping.
func mapping(raw []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("the manifest is no mapping")
	}
	return doc.Content[0], nil
}

// entry is a mapping's value; nil where there is none.
func entry(m *yaml.Node, key string) *yaml.Node {
	if m == nil || m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func put(m *yaml.Node, key string, v *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content[i+1] = v
			return
		}
	}
	m.Style = 0 // data prepare edits by lines
	m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, v)
}
