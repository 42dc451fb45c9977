package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/shoalnet/shoal/gpu/hf"
)

// encode is tok.Encode of each text. It tells how far it is where that takes long, and
// ends with ctx.
func (a *app) encode(ctx context.Context, tok *hf.Tokenizer, texts ...string) ([][]int32, error) {
	var total, before int
	for _, t := range texts {
		total += len(t)
	}
	scr := a.screen()
	defer scr.clear()
	out := make([][]int32, len(texts))
	for i, t := range texts {
		var ok bool
		out[i], ok = tok.EncodeWhile(t, func(done int) bool {
			scr.late("tokenizing, %s of %s", size(int64(before+min(done, len(t)))), size(int64(total)))
			return ctx.Err() == nil
		})
		if !ok {
			return nil, fmt.Errorf("tokenize: %w", ctx.Err())
		}
		before += len(t)
	}
	return out, nil
}

// interruptible is in, whose reads end with ctx: what waits for a terminal or a pipe
// cannot be woken otherwise. A read that is left alone holds nothing up; the process ends.
func interruptible(ctx context.Context, in io.Reader) io.Reader {
	return &waiting{ctx: ctx, in: in, got: make(chan piece, 1), buf: make([]byte, 1<<16)}
}

type waiting struct {
	ctx  context.Context
	in   io.Reader
	buf  []byte // of the read under way
	got  chan piece
	left []byte
	err  error
}

type piece struct {
	n   int
	err error
}

func (w *waiting) Read(p []byte) (int, error) {
	if len(w.left) == 0 && w.err == nil {
		go func() {
			n, err := w.in.Read(w.buf)
			w.got <- piece{n, err}
		}()
		select {
		case x := <-w.got:
			w.left, w.err = w.buf[:x.n], x.err
		case <-w.ctx.Done():
			w.err = fmt.Errorf("read: %w", w.ctx.Err())
		}
	}
	n := copy(p, w.left)
	if w.left = w.left[n:]; len(w.left) > 0 || n > 0 {
		return n, nil
	}
	return 0, w.err
}

// readText reads a file of text, which may be a pipe, and ends with ctx.
func readText(ctx context.Context, name string) (string, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("text: %w", err)
	}
	limit := int64(maxText)
	if free := freeMemory(); free > 0 {
		limit = min(limit, free/4) // a copy, and tokens
	}
	tooLarge := advise(fmt.Errorf("text: %s: over %s, which is what there is memory for", name, size(limit)), "give a part of it")
	if fi.Mode().IsRegular() && fi.Size() > limit {
		return "", tooLarge
	}
	in, err := open(ctx, name)
	if err != nil {
		return "", fmt.Errorf("text: %w", err)
	}
	defer in.Close()
	var b strings.Builder
	if fi.Mode().IsRegular() {
		b.Grow(int(fi.Size()))
	}
	n, err := io.Copy(&b, io.LimitReader(interruptible(ctx, in), limit+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("text: %w", err)
	case n > limit:
		return "", tooLarge
	case !utf8.ValidString(b.String()):
		return "", advise(fmt.Errorf("%s is not UTF-8 text", name), "convert it, e.g. with iconv -t UTF-8")
	}
	return b.String(), nil
}

// regular refuses what is not a file with an end: to open a pipe could take for ever.
func regular(name string) error {
	fi, err := os.Stat(name)
	switch {
	case err == nil && fi.IsDir():
		return fmt.Errorf("%s is a directory", name)
	case err == nil && !fi.Mode().IsRegular():
		return fmt.Errorf("%s (%s) is not a regular file", name, fi.Mode())
	}
	return nil
}

// open is os.Open that ends with ctx: that of a pipe lasts until somebody writes to it.
func open(ctx context.Context, name string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	got := make(chan result, 1)
	go func() { // as in interruptible
		f, err := os.Open(name)
		got <- result{f, err}
	}()
	select {
	case x := <-got:
		return x.f, x.err
	case <-ctx.Done():
		return nil, fmt.Errorf("open %s: %w", name, ctx.Err())
	}
}

// signals is a context that ends with a signal where name is a pipe, which may keep one waiting for ever.
func signals(name string) (ctx context.Context, stop func()) {
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() {
		return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	}
	return context.Background(), func() {}
}

// readBounded reads a file that must not be longer than limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	ctx, stop := signals(name)
	defer stop()
	f, err := open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(interruptible(ctx, f), limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: over the limit of %d bytes", name, limit)
	}
	return b, nil
}
