package evm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"
)

// A node that says too much, too slowly or something else is an error, not a process without memory.
func TestAnswersEnd(t *testing.T) {
	const limit = 1 << 16
	over := make(chan struct{})
	defer close(over)
	endless := func(begin string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, begin)
			for b := bytes.Repeat([]byte{' '}, 4096); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}
	}
	for name, c := range map[string]struct {
		node http.HandlerFunc
		want string
	}{
		"good": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":"0x7a6a"}`)
		}, ""},
		"white space": {endless(""), "over 65536 bytes"},
		"string":      {endless(`{"result":"`), "over 65536 bytes"},
		"trailing":    {endless(`{"jsonrpc":"2.0","id":1,"result":"0x7a6a"}`), ""}, // what follows is not waited for
		"trouble":     {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(502); endless("no\n")(w, r) }, "502 Bad Gateway: no"},
		"silent":      {func(w http.ResponseWriter, r *http.Request) { <-over }, "not whole after 300ms"},
		"slow": {func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `{"jsonrpc"`)
			w.(http.Flusher).Flush()
			<-over
		}, "not whole after 300ms"},
		"page":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "invalid character"},
		"empty": {func(w http.ResponseWriter, _ *http.Request) {}, "EOF"},
		"lost": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"jsonrpc"`)
		}, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(c.node)
			defer s.CloseClientConnections()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r, err := rpc.DialOptions(ctx, s.URL, rpc.WithHTTPClient(&http.Client{Transport: bounded{http.DefaultTransport, limit, 300 * time.Millisecond}}))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			_, err = NewClient(ctx, ethclient.NewClient(r), Preset{URL: s.URL, ChainID: DevChainID})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err != nil && (len(err.Error()) > 600 || errors.Is(err, context.DeadlineExceeded)) {
				t.Errorf("%v", err)
			}
			if strings.HasPrefix(c.want, "over") != (err != nil && strings.Contains(err.Error(), ErrNoNode.Error())) && !strings.HasPrefix(c.want, "not whole") {
				t.Errorf("%v", err)
			}
		})
	}
}

// An answer of just the limit is whole; whoever asked and gave up hears that of himself.
func TestAnswerOfTheLimit(t *testing.T) {
	held := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-held
		}
		w.Write(bytes.Repeat([]byte{'x'}, 1000))
	}))
	defer s.Close()
	defer close(held)
	for limit, ok := range map[int64]bool{999: false, 1000: true, 1001: true} {
		resp, err := (&http.Client{Transport: bounded{http.DefaultTransport, limit, time.Minute}}).Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if (err == nil) != ok || ok && len(b) != 1000 || !ok && !errors.Is(err, ErrNoNode) {
			t.Errorf("limit %d: %d bytes, %v", limit, len(b), err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/wait", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&http.Client{Transport: bounded{http.DefaultTransport, 1, time.Minute}}).Do(req); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNoNode) {
		t.Error(err)
	}
}
