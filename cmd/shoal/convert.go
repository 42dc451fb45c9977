package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/node"
)

func (a *app) convertCmd() *cobra.Command {
	var kf keyFlags
	var nf netFlags
	var bf16 bool
	c := &cobra.Command{
		Use:   "convert MODEL FILE.gguf",
		Short: "Write a model as a GGUF file, for llama.cpp and its kin",
		Long: `MODEL is a directory with config.json, model.safetensors and tokenizer.json, or the CID
of one, which is fetched. Numbers stay float32 unless --bf16 rounds the matrices.

The chat template comes along, and which tokens begin and end a text: what tokenizer_config.json
says, or else generation_config.json, config.json and tokenizer.json. GGUF has place for
three that end one.`,
		Example: `  shoal convert model/ model.gguf
  shoal convert model/ model.gguf --bf16`,
		Args: exactly("MODEL", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !strings.HasSuffix(args[1], ".gguf") {
				return usagef("%s: the name must end in .gguf", args[1])
			}
			dir, err := a.model(cmd.Context(), args[0], &kf, &nf)
			if err != nil {
				return err
			}
			name := filepath.Base(filepath.Clean(args[0]))
			return errors.Join(a.convert(cmd.Context(), dir, args[1], hf.GGUFOptions{Name: name, BF16: bf16}), dir.close())
		},
	}
	kf.add(c)
	nf.add(c)
	c.Flags().BoolVar(&bf16, "bf16", false, "round matrices to bfloat16: half the size")
	return c
}

// writing is a writer that tells how many bytes come; told's error ends it.
type writing struct {
	io.Writer
	told func(n int) error
}

func (w writing) Write(b []byte) (int, error) {
	if err := w.told(len(b)); err != nil {
		return 0, err
	}
	return w.Writer.Write(b)
}

func (a *app) convert(ctx context.Context, dir *modelDir, name string, o hf.GGUFOptions) (err error) {
	if _, err := os.Lstat(name); err == nil {
		return advise(fmt.Errorf("%s: %w", name, os.ErrExist), "choose a file that is not there yet")
	}
	if _, err := os.Stat(filepath.Dir(name)); err != nil { // said before the model is read
		return fmt.Errorf("write %s: %w", name, err)
	}
	cfg, err := hf.ParseConfig(dir.files[node.ConfigFile])
	if err != nil {
		return err
	}
	tok, err := hf.LoadTokenizer(dir.files[node.TokenizerFile])
	if err != nil {
		return err
	}
	if err := ends(&cfg, tok, dir.files); err != nil {
		return err
	}
	if o.Before, o.After, err = around(tok, dir.files[tokenizerConfigFile]); err != nil {
		return err
	}
	weights, err := dir.weights(cfg)
	if err != nil {
		return err
	}
	if o.Template, _, err = chatTemplate(dir.files); err != nil && !errors.Is(err, errNoTemplate) {
		return err
	}
	total := hf.GGUFSize(cfg, o.BF16)
	if err := diskRoom("the file", filepath.Dir(name), total); err != nil {
		return err
	}
	scr, done := a.screen(), int64(0)
	defer scr.clear()
	told := func(n int) error {
		done += int64(n)
		scr.late("writing %s of about %s", size(done), size(total))
		return ctx.Err()
	}
	// Whole or not at all, also where the process is killed.
	err = writeFileBy(name, 0o644, func(w io.Writer) error { return hf.WriteGGUF(writing{w, told}, cfg, tok, weights, o) })
	if err != nil {
		return unreadable(err)
	}
	if !o.BF16 && weights.BF16() {
		a.say("note: the model is in bfloat16: with --bf16 the file is half as large and says the same")
	}
	fi, err := os.Stat(name)
	if err != nil {
		return err
	}
	return a.show(map[string]any{"file": name, "bytes": fi.Size()}, fmt.Sprintf("%s, %s\n", name, size(fi.Size())))
}
