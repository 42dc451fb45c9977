package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

func (a *app) manifestCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "manifest",
		Short: "Write and check the manifest of a run",
		Long: `A manifest fixes everything that the peers of a run must agree on. Its CID is the
run's ID: change one value, and it is another run.`,
		Example: `  shoal manifest init --name moby > run.yaml
  shoal manifest init --from Qwen2.5-0.5B/ > run.yaml
  shoal manifest check run.yaml
  shoal manifest cid run.yaml`,
	}, a.manifestInitCmd(), a.manifestCheckCmd(), a.manifestCIDCmd(), a.manifestSignCmd())
}

func readManifest(name string) (*manifest.Manifest, wire.CID, error) {
	b, err := readBounded(name, manifest.MaxSize)
	if err != nil {
		return nil, "", fmt.Errorf("manifest: %w", err)
	}
	m, err := manifest.Parse(b)
	if err != nil {
		return nil, "", advise(fmt.Errorf("%s: %w", name, err), "correct it and run `shoal manifest check %s`; `shoal manifest init` prints one with comments", name)
	}
	c, err := m.CID()
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	return m, c, nil
}

func (a *app) manifestCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE",
		Short:   "Check a manifest and say what it means",
		Example: "  shoal manifest check run.yaml",
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			m, c, err := readManifest(args[0])
			if err != nil {
				return err
			}
			cfg := m.Model.Config.HF()
			tokens := m.TotalSteps() * uint64(m.Inner.Batch) * uint64(m.Inner.Sequence)
			var b strings.Builder
			fmt.Fprintf(&b, "%s is valid\n", args[0])
			fmt.Fprintf(&b, "  run      %s\n", c)
			fmt.Fprintf(&b, "  name     %s, %s\n", m.Name, m.Licence)
			fmt.Fprintf(&b, "  model    %s, %s parameters, %d layers, vocabulary of %d\n", cfg.Architecture(), count(float64(cfg.NumParams())), cfg.NumHiddenLayers, cfg.VocabSize)
			if m.Model.Base.Defined() {
				fmt.Fprintf(&b, "  from     %s\n", m.Model.Base)
			}
			fmt.Fprintf(&b, "  rounds   %d of %d inner steps, deltas as %s\n", m.Stop.Rounds, m.Round.InnerSteps, m.Codec.Kind)
			fmt.Fprintf(&b, "  a peer   %s tokens in all, %d sequences of %d tokens a step\n", count(float64(tokens)), m.Inner.Batch, m.Inner.Sequence)
			if m.Inner.Separator != nil {
				fmt.Fprintf(&b, "  packed   token %d ends a document, none sees another\n", *m.Inner.Separator)
			}
			if m.Sponsor != nil {
				fmt.Fprintf(&b, "  sponsor  %s, whose signature is good\n", m.Sponsor.Address)
			} else {
				fmt.Fprintf(&b, "  sponsor  nobody: the run has no budget\n")
			}
			if !m.Data.Defined() || !m.Tokenizer.Defined() {
				fmt.Fprintf(&b, "  data     none yet: `shoal data prepare TEXT --into %s`\n", args[0])
			}
			return a.show(struct {
				Run        wire.CID           `json:"run"`
				Name       string             `json:"name"`
				Parameters int64              `json:"parameters"`
				Manifest   *manifest.Manifest `json:"manifest"`
			}{c, m.Name, cfg.NumParams(), m}, b.String())
		},
	}
}

func (a *app) manifestCIDCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "cid FILE",
		Short:   "Print the run's ID: the CID of the manifest",
		Example: "  shoal join $(shoal manifest cid run.yaml)",
		Args:    exactly("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			_, c, err := readManifest(args[0])
			if err != nil {
				return err
			}
			return a.show(map[string]wire.CID{"run": c}, c.String()+"\n")
		},
	}
}
