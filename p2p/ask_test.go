package p2p

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/shoalnet/shoal/p2p/wire"
)

const echo = "/test/echo/1"

func TestAsk(t *testing.T) {
	a, b := start(t, local(t, 1)), start(t, local(t, 2))
	b.Handle(echo, 1000, func(_ context.Context, from wire.PeerID, req []byte) ([]byte, error) {
		if from != a.Peer() {
			return nil, fmt.Errorf("who is %s?", from)
		}
		if string(req) == "fail" {
			return nil, errors.New("no: " + strings.Repeat("x", 1000))
		}
		return req, nil
	})
	connect(t, a, b)
	ask := func(req string, limit int) (string, error) {
		r, err := a.Ask(t.Context(), b.Peer(), echo, []byte(req), limit)
		return string(r), err
	}
	for _, req := range []string{"", "hello", strings.Repeat("y", 1000)} {
		if r, err := ask(req, 1000); r != req || err != nil {
			t.Errorf("%.10q: %.10q, %v", req, r, err)
		}
	}
	var remote *RemoteError
	if _, err := ask("fail", 1000); !errors.As(err, &remote) || remote.Peer != b.Peer() || len(remote.Text) != maxErrorText {
		t.Errorf("handler's error: %v", err)
	}
	if _, err := ask(strings.Repeat("y", 1001), 2000); !errors.Is(err, ErrTooLarge) {
		t.Errorf("request over the handler's limit: %v", err)
	}
	if _, err := ask(strings.Repeat("y", maxAskRequest), 2000); !errors.Is(err, ErrTooLarge) {
		t.Errorf("request far over the handler's limit: %v", err)
	}
	if _, err := ask(strings.Repeat("y", maxAskRequest+1), 2000); !errors.Is(err, ErrTooLarge) {
		t.Errorf("request over every limit: %v", err)
	}
	if _, err := ask("hello", 4); !errors.Is(err, ErrTooLarge) {
		t.Errorf("response over the asker's limit: %v", err)
	}
	if _, err := a.Ask(t.Context(), b.Peer(), "/test/none/1", nil, 10); !errors.Is(err, ErrUnsupported) {
		t.Errorf("unknown protocol: %v", err)
	}
	b.Unhandle(echo)
	soon(t, "a protocol that was taken back is unsupported", func() bool {
		_, err := ask("hello", 10)
		return errors.Is(err, ErrUnsupported)
	})
	if _, err := a.Ask(t.Context(), a.Peer(), echo, nil, 10); err == nil {
		t.Error("a peer asked itself")
	}
	if _, err := a.Ask(t.Context(), testKey(t, 9).Peer(), echo, nil, 10); err == nil {
		t.Error("an unknown peer answered")
	}
	in, out := a.Bandwidth()
	if in < 1000 || out < 1000 || a.BandwidthByProtocol()[echo][1] < 1000 {
		t.Errorf("bandwidth: %d in, %d out, %v", in, out, a.BandwidthByProtocol())
	}
}

// A peer's requests beyond the limit are told busy; those under way finish.
func TestAskBusy(t *testing.T) {
	a, b := start(t, local(t, 1)), start(t, local(t, 2))
	entered, release := make(chan bool, 100), make(chan bool)
	b.Handle(echo, 10, func(ctx context.Context, _ wire.PeerID, req []byte) ([]byte, error) {
		entered <- true
		select {
		case <-release:
			return req, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	connect(t, a, b)
	var wg sync.WaitGroup
	errs := make(chan error, asksPerPeer)
	for range asksPerPeer {
		wg.Go(func() {
			_, err := a.Ask(t.Context(), b.Peer(), echo, []byte("x"), 10)
			errs <- err
		})
	}
	for range asksPerPeer {
		<-entered
	}
	if _, err := a.Ask(t.Context(), b.Peer(), echo, []byte("x"), 10); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := start(t, local(t, 3))
	connect(t, c, b)
	if _, err := c.Ask(ctx, b.Peer(), echo, []byte("x"), 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another peer with little time: %v", err)
	}
	close(release)
	wg.Wait()
	for range asksPerPeer {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	soon(t, "all slots are free", func() bool {
		b.asks.mu.Lock()
		defer b.asks.mu.Unlock()
		return b.asks.total == 0 && len(b.asks.peers) == 0
	})
}

// A handler that waits ends with its host, and Close waits for it.
func TestAskClose(t *testing.T) {
	a := start(t, local(t, 1))
	b, err := New(local(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	entered, ended := make(chan bool), false
	b.Handle(echo, 10, func(ctx context.Context, _ wire.PeerID, _ []byte) ([]byte, error) {
		close(entered)
		<-ctx.Done()
		ended = true
		return nil, ctx.Err()
	})
	connect(t, a, b)
	got := make(chan error)
	go func() {
		_, err := a.Ask(t.Context(), b.Peer(), echo, nil, 10)
		got <- err
	}()
	<-entered
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if !ended {
		t.Error("Close did not wait for the handler")
	}
	if err := <-got; err == nil {
		t.Error("an answer from a closed host")
	}
}

// Peers that answer nonsense cost an error and no memory.
func TestAskHostile(t *testing.T) {
	a, b := start(t, local(t, 1)), start(t, local(t, 2))
	connect(t, a, b)
	huge := binary.AppendUvarint([]byte{statusOK}, 1<<62)
	for name, resp := range map[string][]byte{
		"nothing":       nil,
		"status only":   {statusOK},
		"unknown":       {17},
		"short":         {statusOK, 10, 'x'},
		"huge":          append(huge, 'x'),
		"endless error": binary.AppendUvarint([]byte{statusError}, maxErrorText+1),
		"bad varint":    append([]byte{statusOK}, bytes.Repeat([]byte{0xff}, 20)...),
	} {
		b.Libp2p().SetStreamHandler(echo, func(s network.Stream) {
			io.Copy(io.Discard, s)
			s.Write(resp)
			s.Close()
		})
		if r, err := a.Ask(t.Context(), b.Peer(), echo, []byte("x"), 1000); err == nil {
			t.Errorf("%s: %q", name, r)
		}
	}
	// And peers that ask nonsense are not answered.
	b.Handle(echo, 10, func(context.Context, wire.PeerID, []byte) ([]byte, error) { return []byte("yes"), nil })
	for name, req := range map[string][]byte{
		"nothing": nil, "short": {10, 'x'}, "bad varint": bytes.Repeat([]byte{0xff}, 20),
	} {
		s, err := a.Libp2p().NewStream(t.Context(), FromWire(b.Peer()), echo)
		if err != nil {
			t.Fatal(err)
		}
		s.Write(req)
		s.CloseWrite()
		if r, err := io.ReadAll(s); err == nil && len(r) > 0 {
			t.Errorf("%s: answered %q", name, r)
		}
	}
	if r, err := a.Ask(t.Context(), b.Peer(), echo, []byte("x"), 10); string(r) != "yes" || err != nil {
		t.Errorf("afterwards: %q, %v", r, err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{3, 'a', 'b', 'c'}, 10)
	f.Add([]byte{0}, 0)
	f.Add(binary.AppendUvarint(nil, 1<<63), 100)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		limit = min(limit, 1<<20)
		got, err := readFrame(bufio.NewReader(bytes.NewReader(b)), limit)
		if err != nil {
			return
		}
		if len(got) > limit {
			t.Fatalf("%d bytes, limit %d", len(got), limit)
		}
		n, k := binary.Uvarint(b)
		if k <= 0 || n != uint64(len(got)) || !bytes.Equal(got, b[k:k+len(got)]) {
			t.Fatal("not what was framed")
		}
	})
}
