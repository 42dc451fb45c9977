package p2p

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
	"github.com/shoalnet/shoal/p2p/wire"
)

// Bounds of requests. A peer that asks more at once is told ErrBusy.
const (
	asksPerPeer   = 8  // being answered, of one peer, over all protocols
	asksTotal     = 64 // being answered, of all peers
	requestTime   = 15 * time.Second
	answerTime    = 60 * time.Second // of the handler and of the response
	askTime       = 30 * time.Second // where the caller's context has no deadline
	maxErrorText  = 256
	maxAskRequest = 1 << 20
)

// The status byte of a response.
const (
	statusOK = iota
	statusError
	statusBusy
	statusTooLarge
)

// What Ask may return, wrapped, besides errors of the connection.
var (
	ErrBusy        = errors.New("peer is busy")
	ErrTooLarge    = errors.New("message is over its limit")
	ErrUnsupported = errors.New("peer does not speak the protocol")
)

// A RemoteError is the text of an error that the other peer's handler
// returned. It is not to be trusted, only shown.
type RemoteError struct {
	Peer wire.PeerID
	Text string
}

func (e *RemoteError) Error() string { return fmt.Sprintf("peer %s says: %q", e.Peer.Short(), e.Text) }

// askLimits counts the requests that are being answered.
type askLimits struct {
	mu    sync.Mutex // guards following
	total int
	peers map[peer.ID]int
}

func newAskLimits() *askLimits { return &askLimits{peers: make(map[peer.ID]int)} }

func (l *askLimits) enter(p peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= asksTotal || l.peers[p] >= asksPerPeer {
		return false
	}
	l.total++
	l.peers[p]++
	return true
}

func (l *askLimits) leave(p peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.peers[p]--; l.peers[p] == 0 {
		delete(l.peers, p)
	}
}

// Handle answers requests under the protocol ID proto (e.g. /shoal/1/status)
// with f. Requests over maxReq bytes are refused before f sees them. f runs in
// a goroutine per request, at most 8 for one peer and 64 in all, under a
// context that ends with the host or after a minute; its error goes to the
// asker as text. A second Handle of the same proto replaces the first.
func (h *Host) Handle(proto string, maxReq int, f func(ctx context.Context, from wire.PeerID, req []byte) ([]byte, error)) {
	h.host.SetStreamHandler(protocol.ID(proto), func(s network.Stream) {
		if !h.begin() {
			s.Reset()
			return
		}
		defer h.wg.Done()
		if err := h.answer(s, maxReq, f); err != nil {
			h.log.Debug("answer request", "protocol", proto, "peer", s.Conn().RemotePeer(), "err", err)
			s.Reset()
			return
		}
		s.Close()
	})
}

// Unhandle stops answering proto.
func (h *Host) Unhandle(proto string) { h.host.RemoveStreamHandler(protocol.ID(proto)) }

// begin counts the caller's goroutine among those that Run waits for.
func (h *Host) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.wg.Add(1)
	return true
}

func (h *Host) answer(s network.Stream, maxReq int, f func(context.Context, wire.PeerID, []byte) ([]byte, error)) error {
	id := s.Conn().RemotePeer()
	if !h.gate.admits(id) {
		return errNotSecp
	}
	from, err := ToWire(id)
	if err != nil {
		return err
	}
	if err := s.SetDeadline(time.Now().Add(requestTime)); err != nil {
		return err
	}
	if !h.asks.enter(id) {
		return writeResponse(s, statusBusy, nil)
	}
	defer h.asks.leave(id)
	r := bufio.NewReaderSize(s, 4096)
	req, err := readFrame(r, min(maxReq, maxAskRequest))
	if errors.Is(err, ErrTooLarge) {
		return writeResponse(s, statusTooLarge, nil)
	} else if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	ctx, cancel := context.WithTimeout(h.ctx, answerTime)
	defer cancel()
	resp, err := f(ctx, from, req)
	if err := s.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if err != nil {
		text := err.Error()
		return writeResponse(s, statusError, []byte(text[:min(len(text), maxErrorText)]))
	}
	return writeResponse(s, statusOK, resp)
}

func writeResponse(w io.Writer, status byte, body []byte) error {
	head := binary.AppendUvarint([]byte{status}, uint64(len(body)))
	if _, err := w.Write(append(head, body...)); err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	return nil
}

// readFrame reads uvarint(length) ‖ bytes of at most limit bytes. Memory grows
// with what arrives, not with what is claimed.
func readFrame(r *bufio.Reader, limit int) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > uint64(max(limit, 0)) {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, n, limit)
	}
	var b bytes.Buffer
	b.Grow(int(min(n, 64<<10)))
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b.Bytes(), nil
}

// Ask sends one request to a peer and returns its response of at most maxResp
// bytes. It connects first if need be, finding addresses in the DHT. Without a
// deadline in ctx it gives up after 30 s. Errors: ErrBusy, ErrTooLarge,
// ErrUnsupported, *RemoteError, or the connection's.
func (h *Host) Ask(ctx context.Context, to wire.PeerID, proto string, req []byte, maxResp int) ([]byte, error) {
	resp, err := h.ask(ctx, to, proto, req, maxResp)
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", to.Short(), proto, err)
	}
	return resp, nil
}

func (h *Host) ask(ctx context.Context, to wire.PeerID, proto string, req []byte, maxResp int) ([]byte, error) {
	if to == h.self {
		return nil, errors.New("a peer does not ask itself")
	}
	if len(req) > maxAskRequest {
		return nil, fmt.Errorf("request: %w: %d bytes, limit %d", ErrTooLarge, len(req), maxAskRequest)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTime)
		defer cancel()
	}
	s, err := h.host.NewStream(ctx, FromWire(to), protocol.ID(proto))
	if err != nil {
		return nil, unsupported(err)
	}
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	resp, err := exchange(s, to, req, maxResp)
	if err != nil {
		s.Reset()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, unsupported(err)
	}
	s.Close()
	return resp, nil
}

// exchange writes the request while it reads the response: a peer that refuses
// a request may answer before it has read it, and then read no further.
func exchange(s network.Stream, to wire.PeerID, req []byte, maxResp int) ([]byte, error) {
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Write(append(binary.AppendUvarint(nil, uint64(len(req))), req...))
		if err == nil {
			err = s.CloseWrite()
		}
		wrote <- err
	}()
	resp, err := readResponse(bufio.NewReaderSize(s, 4096), to, req, maxResp)
	select {
	case werr := <-wrote:
		if werr != nil && err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrTooLarge) {
			err = errors.Join(werr, err)
		}
	default:
		s.Reset() // ends the write
		<-wrote
	}
	return resp, err
}

func readResponse(r *bufio.Reader, to wire.PeerID, req []byte, maxResp int) ([]byte, error) {
	status, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	switch status {
	case statusOK:
		b, err := readFrame(r, maxResp)
		if err != nil {
			return nil, fmt.Errorf("response: %w", err)
		}
		return b, nil
	case statusError:
		b, err := readFrame(r, maxErrorText)
		if err != nil {
			return nil, fmt.Errorf("response: %w", err)
		}
		return nil, &RemoteError{to, string(b)}
	case statusBusy:
		return nil, ErrBusy
	case statusTooLarge:
		return nil, fmt.Errorf("request of %d bytes: %w", len(req), ErrTooLarge)
	}
	return nil, fmt.Errorf("response has the unknown status %d", status)
}

// unsupported adds ErrUnsupported to a failed protocol negotiation.
func unsupported(err error) error {
	var no multistream.ErrNotSupported[protocol.ID]
	if errors.As(err, &no) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}
