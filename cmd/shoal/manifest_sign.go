package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

func (a *app) manifestSignCmd() *cobra.Command {
	var kf keyFlags
	var budget, split string
	var shares bool
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Stand for a run's budget",
		Long: `Makes this peer's key the run's sponsor and signs the manifest: on a ledger the run
is then this account's, and only it can put it there. The signature goes into
the file, and changes the run's ID. --budget says what an epoch may cost, in
tokens of the ledger of ` + chainFile + `, and --split how that divides.`,
		Example: `  shoal manifest sign run.yaml
  shoal manifest sign run.yaml --budget 10 --split 8000,0,2000,0 --shares`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := a.openKey(&kf)
			if err != nil {
				return err
			}
			text, err := readBounded(args[0], manifest.MaxSize)
			if err != nil {
				return fmt.Errorf("manifest: %w", err)
			}
			set := map[string]string{}
			if budget != "" {
				if set["budget"], set["token"], err = a.budgetIn(budget); err != nil {
					return err
				}
			}
			if split != "" {
				parts, err := splitOf(split)
				if err != nil {
					return err
				}
				for i, name := range []string{"trainers", "workers", "validators", "sponsor"} {
					set[name] = fmt.Sprint(parts[i])
				}
			}
			if cmd.Flags().Changed("shares") {
				set["shares"] = fmt.Sprint(shares)
			}
			out, run, err := signed(string(text), set, k)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if err := writeFile(args[0], []byte(out), 0o644); err != nil {
				return fmt.Errorf("manifest: %w", err)
			}
			return a.show(map[string]any{"run": run, "sponsor": chain.AddressOf(k)}, fmt.Sprintf("%s\n", run))
		},
	}
	kf.add(c)
	c.Flags().StringVar(&budget, "budget", "", "tokens that an epoch may cost")
	c.Flags().StringVar(&split, "split", "", "trainers,workers,validators,sponsor in parts per 10,000")
	c.Flags().BoolVar(&shares, "shares", false, "work mints ownership shares of the model")
	return c
}

// budgetIn is an amount of tokens as a manifest writes it, with its token.
func (a *app) budgetIn(tokens string) (budget, token string, err error) {
	v, err := amountOf(tokens)
	if err != nil {
		return "", "", err
	}
	d, err := a.deployed()
	if err != nil {
		return "", "", err
	}
	if d == nil {
		return "", "", advise(errors.New("this peer knows no ledger, and so no token"), "`shoal chain deploy`, or copy a swarm's %s to %s", chainFile, a.dir)
	}
	return v.String(), fmt.Sprintf("%q", manifest.Address(d.Book.Contracts[chain.Token]).String()), nil
}

// signed returns a manifest's text with values of its rewards set and a sponsor's
// signature; comments and the order of everything else stay.
func signed(text string, rewards map[string]string, k *wire.Key) (string, wire.CID, error) {
	lines := without(strings.Split(strings.TrimRight(text, "\n"), "\n"), "sponsor")
	if len(rewards) > 0 {
		lines = setIn(lines, "rewards", rewards, []string{"budget", "token", "trainers", "workers", "validators", "sponsor", "shares"})
	}
	body := strings.Join(lines, "\n") + "\n"
	m, err := manifest.Parse([]byte(body))
	if err != nil {
		return "", "", err
	}
	if err := m.Sign(k); err != nil {
		return "", "", err
	}
	sig, err := m.Sponsor.Signature.MarshalText()
	if err != nil {
		return "", "", err
	}
	body += fmt.Sprintf("\nsponsor:                       # by shoal manifest sign: sign again after any change\n  address: %q\n  signature: %q\n", m.Sponsor.Address.String(), sig)
	again, err := manifest.Parse([]byte(body))
	if err != nil {
		return "", "", fmt.Errorf("with its signature it does not read back: %w", err)
	}
	c, err := again.CID()
	return body, c, err
}

// below finds the lines [from, to) of a top-level key and what is below it.
func below(lines []string, key string) (from, to int) {
	for i, l := range lines {
		if l != key+":" && !strings.HasPrefix(l, key+": ") {
			continue
		}
		for to = i + 1; to < len(lines) && (strings.HasPrefix(lines[to], " ") || strings.HasPrefix(lines[to], "\t")); to++ {
		}
		return i, to
	}
	return len(lines), len(lines)
}

func without(lines []string, key string) []string {
	from, to := below(lines, key)
	if from == to {
		return lines
	}
	if from > 0 && strings.TrimSpace(lines[from-1]) == "" {
		from--
	}
	return append(lines[:from:from], lines[to:]...)
}

// unfold writes a key whose map stands on its own line, {a: 1, b: 2}, one line
// for each value; any other line is as it was.
func unfold(line, key string) []string {
	var doc map[string]yaml.Node
	v := strings.TrimSpace(strings.TrimPrefix(line, key+":"))
	if !strings.HasPrefix(v, "{") || yaml.Unmarshal([]byte(line), &doc) != nil {
		return []string{line}
	}
	out := []string{key + ":"}
	for n := doc[key]; len(n.Content) > 1; n.Content = n.Content[2:] {
		out = append(out, "  "+n.Content[0].Value+": "+n.Content[1].Value)
	}
	return out
}

// setIn sets values below a top-level key, which is added where it is missing.
func setIn(lines []string, key string, values map[string]string, order []string) []string {
	from, to := below(lines, key)
	if from == to {
		lines = append(lines, "", key+":")
		from, to = len(lines)-1, len(lines)
	}
	lines = slices.Concat(lines[:from], unfold(lines[from], key), lines[from+1:])
	from, to = below(lines, key)
	var kept []string
	for _, l := range lines[from+1 : to] {
		name, _, _ := strings.Cut(strings.TrimSpace(strings.TrimLeft(strings.TrimSpace(l), "# ")), ":")
		if _, ok := values[name]; !ok {
			kept = append(kept, l)
		}
	}
	out := append(lines[:from+1:from+1], kept...)
	for _, name := range order {
		if v, ok := values[name]; ok {
			out = append(out, "  "+name+": "+v)
		}
	}
	return append(out, lines[to:]...)
}
