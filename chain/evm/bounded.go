package evm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	maxAnswer  = 64 << 20        // bytes; a history of logs that is longer is asked for in parts
	maxTrouble = 300             // bytes of what comes with a status that says that something is wrong
	answerIn   = 2 * time.Minute // for one answer
)

// ErrNoNode is returned where what answers is not a node: its answer has no end, or takes for ever.
var ErrNoNode = errors.New("what answers is no node of a chain")

// bounded holds a node to answers that end: go-ethereum reads whatever comes, for as long as it comes.
type bounded struct {
	next     http.RoundTripper
	limit    int64
	patience time.Duration
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	slow := fmt.Errorf("%w: its answer was not whole after %v", ErrNoNode, b.patience)
	ctx, cancel := context.WithTimeoutCause(r.Context(), b.patience, slow)
	resp, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		if r.Context().Err() == nil && ctx.Err() != nil {
			err = slow
		}
		cancel()
		return nil, err
	}
	a := &answer{body: resp.Body, ctx: ctx, asked: r.Context(), cancel: cancel, left: b.limit,
		over: fmt.Errorf("%w: its answer is over %d bytes", ErrNoNode, b.limit)}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		a.left, a.over = maxTrouble, io.EOF
	}
	resp.Body = a
	return resp, nil
}

// An answer is a body that ends.
type answer struct {
	body       io.ReadCloser
	ctx, asked context.Context // the question's with patience, and without
	cancel     func()
	left       int64
	over       error // beyond left
	err        error
}

func (a *answer) Read(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	if a.left == 0 {
		// One byte more tells an answer that is too long from one that just fits.
		var one [1]byte
		n, err := a.body.Read(one[:])
		if n == 0 && err == nil {
			return 0, nil
		}
		if a.err = err; n > 0 {
			a.err = a.over
		}
		return 0, a.fail()
	}
	n, err := a.body.Read(p[:min(int64(len(p)), a.left)])
	a.left -= int64(n)
	if a.err = err; err != nil {
		err = a.fail()
	}
	return n, err
}

// fail is the error that stays.
func (a *answer) fail() error {
	if a.err != io.EOF && a.asked.Err() == nil && a.ctx.Err() != nil {
		a.err = context.Cause(a.ctx)
	}
	return a.err
}

func (a *answer) Close() error {
	a.err = http.ErrBodyReadAfterClose
	a.cancel()
	return a.body.Close()
}
