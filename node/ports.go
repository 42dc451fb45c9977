package node

import (
	"context"
	"errors"
	"io"

	"github.com/shoalnet/shoal/p2p/wire"
	"github.com/shoalnet/shoal/toploc/audit"
)

// Errors that adapters of Blocks return, wrapped, so that the node can tell
// content that is not there from content that is wrong.
var (
	// ErrNotFound: the block, or one below it, is not in the local store, or no
	// peer that was asked has it. Asking again later may help.
	ErrNotFound = errors.New("block not found")
	// ErrBadContent: the block is held or was offered, and it is not what its
	// user may accept: over the limit, or not the structure that was asked for.
	// Asking again is useless.
	ErrBadContent = errors.New("bad content")
)

// ErrEngineLost is what a Trainer's methods wrap where what computes is gone,
// with all that it held, and a new trainer must be made: a worker process that
// was killed, say. It says nothing about what was asked of it.
var ErrEngineLost = errors.New("the engine is lost")

// A Judge decides about a message of a topic before it is relayed. It is
// called by many goroutines.
type Judge func(ctx context.Context, from wire.PeerID, data []byte) wire.Judgement

// A Handler answers one question of a peer. It is called by many goroutines.
type Handler func(ctx context.Context, from wire.PeerID, req []byte) ([]byte, error)

// Net is the swarm as the node sees it. Package p2p's host and gossip, put
// together by cmd/shoal, are one; tests bring one of their own.
type Net interface {
	// Self is this host's peer ID; it is that of Options.Key.
	Self() wire.PeerID
	// Join enters a topic. Each topic is joined once.
	Join(topic string, judge Judge) (Topic, error)
	// Handle answers questions of a protocol. Requests over maxReq bytes are
	// refused by the port.
	Handle(proto string, maxReq int, h Handler)
	// Ask asks one peer, dialling it where needed. Answers over maxResp bytes are an error.
	Ask(ctx context.Context, to wire.PeerID, proto string, req []byte, maxResp int) ([]byte, error)
	// Peers are those connected now.
	Peers() []wire.PeerID
	// Rendezvous keeps advertising this host under ns and looking for others there.
	Rendezvous(ns string)
	// Provide announces in the DHT that this host serves c; FindProviders asks who does.
	Provide(ctx context.Context, c wire.CID) error
	FindProviders(ctx context.Context, c wire.CID, n int) ([]wire.PeerID, error)
	// Bandwidth is the total of bytes received and sent since the start.
	Bandwidth() (in, out uint64)
}

// A Topic is one joined topic.
type Topic interface {
	// Publish sends to the topic. Data over the port's limit is an error.
	Publish(ctx context.Context, data []byte) error
	// Next returns the next message that the judge accepted, own ones included.
	Next(ctx context.Context) (data []byte, from wire.PeerID, err error)
	// Peers are those known to be in the topic now.
	Peers() []wire.PeerID
	Close() error
}

// Blocks is the content-addressed store and what fetches into it.
//
// A file is a UnixFS file (or one raw leaf), a directory is a flat UnixFS
// directory; both have one CID for one content. Local methods never touch the
// network.
type Blocks interface {
	// Put stores one block durably.
	Put(ctx context.Context, codec uint64, data []byte) (wire.CID, error)
	// Get reads one local block; ErrNotFound where it is not held.
	Get(ctx context.Context, c wire.CID) ([]byte, error)
	// PutFile and PutDir store whole files durably.
	PutFile(ctx context.Context, data []byte) (wire.CID, error)
	PutDir(ctx context.Context, files map[string]io.Reader) (wire.CID, error)
	// GetFile reads a local file of at most limit bytes. OpenDir opens those of a directory of at
	// most limit bytes in all, that may be more than memory holds: they are read while ctx lasts.
	GetFile(ctx context.Context, c wire.CID, limit int64) ([]byte, error)
	OpenDir(ctx context.Context, c wire.CID, limit int64) (map[string]*io.SectionReader, error)

	// Fetch gets one block of at most limit bytes, locally or from the peers,
	// likeliest first, and stores it. An empty from lets the exchange look for providers.
	Fetch(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error)
	// FetchFile does so for a file, FetchDir for all below a directory.
	FetchFile(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64) ([]byte, error)
	FetchDir(ctx context.Context, c wire.CID, from []wire.PeerID, limit int64, progress func(done, total int64)) error
	// FetchEntry does so for the one file of a directory that has this name; nil where it has none.
	FetchEntry(ctx context.Context, dir wire.CID, name string, from []wire.PeerID, limit int64) ([]byte, error)

	// Pin keeps c, and all below it, from garbage collection; name is the
	// reason and replaces an earlier pin of that name. Unpin of an unknown name is no error.
	Pin(name string, c wire.CID) error
	Unpin(name string) error
	// Pins lists the pins by name.
	Pins() (map[string]wire.CID, error)
	// GC deletes unpinned blocks until the store is within its quota; without one,
	// all that nobody has used lately.
	GC(ctx context.Context) error
	// Usage is the size of the store in bytes.
	Usage() (int64, error)
}

// An Engine is what computes for one model. The flat parameter vector is the
// concatenation of the model's tensors (hf.Config.Tensors), row-major, float32.
type Engine interface {
	// Genesis returns the weights that the manifest's seed fixes.
	Genesis() ([]float32, error)
	// NewTrainer makes a trainer with a copy of params and fresh Adam moments.
	NewTrainer(params []float32) (Trainer, error)
	// Identity names whose results are equal bit for bit: model code, device,
	// version and architecture. Engines of different Identity are compared within a tolerance.
	Identity() string
	// Unpack returns the numbers in what Save wrote, for such a comparison. It
	// refuses anything else.
	Unpack(saved []byte) (audit.Snapshot, error)
}

// A Trainer holds one copy of the model with its inner optimizer. One
// goroutine uses it at a time.
//
// A batch is (B, T+1) token IDs: position t predicts t+1.
type Trainer interface {
	// Step does one inner step at learning rate lr and returns the mean loss in
	// nats per token before it; NaN where loss or gradient is not finite.
	Step(batch [][]int32, lr float64) (loss float64, err error)
	// Eval returns the mean loss without changing anything.
	Eval(batch [][]int32) (loss float64, err error)
	// Hidden are the last hidden states, after the final norm, of the batch of
	// the latest Step (before its update) or Eval: B·T rows of width values.
	// They cost no pass of their own and are valid until the next call.
	Hidden() (rows []float32, width int)
	// Params are the live weights: to be read, not kept. Nil where the engine is lost.
	Params() []float32
	// SetParams copies params in; moments and step count stay.
	SetParams(params []float32) error
	// Save writes weights, moments and step count; Load reads what Save wrote
	// and refuses anything else.
	Save(w io.Writer) error
	Load(r io.Reader) error
	Close() error
}

// Kinds of work in a receipt, as the ledger numbers them.
const (
	PaidTraining   uint8 = 0 // of a delta; units are tokens
	PaidValidation uint8 = 2 // of a verdict; one unit
)

// A Payer makes the receipts of this peer's work for the run's ledger. It must
// answer at once, from what it knows: a round waits for no ledger.
type Payer interface {
	// Sign returns the signature of the receipt and the ledger's epoch that it
	// is for; no signature where none can be made, and the work is not paid.
	Sign(kind uint8, subject wire.CID, units uint64) (epoch uint64, receipt []byte)
}
