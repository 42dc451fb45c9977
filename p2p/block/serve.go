package block

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	bsmsg "github.com/ipfs/boxo/bitswap/message"
	bsnet "github.com/ipfs/boxo/bitswap/network"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/p2p/wire"
)

// served is a Store as boxo's server reads it. The server never writes.
type served struct{ s *Store }

var _ blockstore.Blockstore = served{}

var errReadOnly = errors.New("block store is read-only here")

func (v served) cid(c cid.Cid) (wire.CID, error) {
	w, err := wire.CIDFromBytes(c.Bytes())
	if err != nil { // CIDv0, another hash: nothing that we hold
		return "", ipld.ErrNotFound{Cid: c}
	}
	return w, nil
}

func (v served) Has(_ context.Context, c cid.Cid) (bool, error) {
	w, err := v.cid(c)
	return err == nil && v.s.Has(w), nil
}

func (v served) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	w, err := v.cid(c)
	if err != nil {
		return nil, err
	}
	data, err := v.s.Get(ctx, w)
	if errors.Is(err, ErrNotFound) {
		return nil, ipld.ErrNotFound{Cid: c}
	} else if err != nil {
		return nil, err
	}
	return blocks.NewBlockWithCid(data, c)
}

func (v served) GetSize(_ context.Context, c cid.Cid) (int, error) {
	w, err := v.cid(c)
	if err != nil {
		return 0, err
	}
	n, err := v.s.Size(w)
	if err != nil {
		return 0, ipld.ErrNotFound{Cid: c}
	}
	return n, nil
}

func (v served) DeleteBlock(context.Context, cid.Cid) error          { return errReadOnly }
func (v served) Put(context.Context, blocks.Block) error             { return errReadOnly }
func (v served) PutMany(context.Context, []blocks.Block) error       { return errReadOnly }
func (v served) AllKeysChan(context.Context) (<-chan cid.Cid, error) { return nil, errReadOnly }

// slowed is the network with a limit on what the server sends.
type slowed struct {
	bsnet.BitSwapNetwork
	up   *rate.Limiter // bytes
	sent *atomic.Uint64
}

func (n slowed) SendMessage(ctx context.Context, p peer.ID, m bsmsg.BitSwapMessage) error {
	size := 0
	for _, b := range m.Blocks() {
		size += len(b.RawData())
	}
	if err := wait(ctx, n.up, size); err != nil {
		return err
	}
	if err := n.BitSwapNetwork.SendMessage(ctx, p, m); err != nil {
		return err
	}
	n.sent.Add(uint64(size))
	return nil
}

// wait takes size tokens, in portions that the bucket can hold.
func wait(ctx context.Context, l *rate.Limiter, size int) error {
	for size > 0 {
		n := min(size, l.Burst())
		if err := l.WaitN(ctx, n); err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// counted is a host whose incoming Bitswap streams count what they carry, by
// peer: the scheduler sees a block grow before it is whole.
type counted struct {
	host.Host
	c *counts
}

type counts struct {
	mu sync.Mutex // guards following
	in map[peer.ID]*atomic.Uint64
}

func (c *counts) of(p peer.ID) *atomic.Uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.in[p]
	if n == nil {
		n = new(atomic.Uint64)
		c.in[p] = n
	}
	return n
}

// forget drops a peer's counter; a fetch that still holds it is not disturbed.
func (c *counts) forget(p peer.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.in, p)
}

func (h counted) SetStreamHandler(id protocol.ID, f network.StreamHandler) {
	h.Host.SetStreamHandler(id, func(s network.Stream) {
		f(countedStream{s, h.c.of(s.Conn().RemotePeer())})
	})
}

type countedStream struct {
	network.Stream
	n *atomic.Uint64
}

func (s countedStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	s.n.Add(uint64(n))
	return n, err
}

var _ io.Reader = countedStream{}
