// Package worker is the protocol by which a trainer or generator runs in a process
// of its own: one that may crash, hold a GPU, or be written in another
// language, without taking the node along.
//
// Client is the node's side, Serve the worker's. Both speak frames over any
// stream of bytes: the standard input and output of a child process, or a Unix
// socket. All numbers are little-endian.
//
//	 0  4  "SHW3": the protocol and its version
//	 4  4  h, length of the head, at most 1 MiB
//	 8  4  p, length of the part, at most 1 MiB
//	12  4  flags: 1, the message goes on in the next frame; 2, it was broken off, the part says why
//	16  h  head: one JSON object; empty in a frame that goes on with a message
//	    p  part: raw bytes
//
// A message is a head and a body: the parts of its frames, joined. The worker
// speaks first, once:
//
//	{"worker": 3, "name": "cpu avx512, 2 threads", "identity": "llama/1 cpu/1"}
//
// identity names whose results are equal bit for bit: audits compare workers of
// one identity bit by bit, and others within a tolerance.
//
// Then the node asks, {"id": n, "op": …}, and the worker answers with the same
// id, {"id": n} and what the table says, or {"id": n, "error": "why"} after
// which all is as it was before. The node has one question out at a time, but for
// texts. The frames of a message follow one another.
//
//	op        head                                          body             answer
//	open      "config": config.json, "optimizer": {"beta1",  f32 parameters
//	          "beta2", "eps", "weight_decay", "clip"}, and
//	          "separator" where sequences are packed; or
//	          "batch": {"streams", "rows", "positions",
//	          "bf16"} in their stead
//	step      "rows", "cols", "lr"                           i32 tokens       "loss"
//	eval      "rows", "cols"                                 i32 tokens       "loss"
//	hidden                                                                    "rows", "cols"; body: f32 last hidden states
//	params                                                                    body: f32 parameters
//	set                                                      f32 parameters
//	save                                                                      body: the worker's own bytes
//	load                                                     those
//
// Parameters are the tensors of the model sorted by name (hf.Config.Tensors),
// joined, row-major. A batch is rows sequences of cols ids; position t predicts
// t+1. The optimizer is AdamW with decoupled decay of matrices, and clips the
// norm of the whole gradient. Where there is a separator, each one ends a document: no
// position sees a document before its own, a separator predicts nothing, and the loss,
// of step and of eval, is the mean over what is predicted in the whole batch, 0 where that
// is nothing. A loss that is not finite is null. set leaves the
// moments alone; save and load carry parameters, moments and step count. hidden
// are the states after the final norm of the latest step's batch, before its
// update, or of the latest eval's: one row for each position but a sequence's last. In runs
// that audit, validators read what save wrote: there it is the format of gpu/llama.
//
// # Texts
//
// A model that was opened with "batch" writes texts: it takes generate and cancel,
// and nothing else.
//
//	generate  "cols", "sampling": {"max_tokens",             i32 prompt       "more": true; body: see below
//	          "temperature", "top_k", "top_p", "min_p",                       …
//	          "repetition", "frequency", "presence",                          then {"id": n} once more, or an error
//	          "seed", "stop": [ids], "log_probs",
//	          "hidden"}
//	cancel    with the id of the text                                         none of its own: the text ends
//
// Any number of texts may be out at a time, each with an id of its own; the worker
// writes batch.streams of them at once and lets the others wait, and their answers come
// in any order. An answer with more holds what was written since the last: "rows" tokens,
// i32, and behind them, where log_probs was asked, as many f64: their log-probabilities
// under the model as it is. Where hidden was asked, answers with more and "cols" hold
// "rows" last hidden states after the final norm, f32 of cols = hidden_size, of the
// positions that were read, the prompt's first, in order: what a proof of inference is
// made of. A token comes after the states that it was drawn from. What sampling means is said at llama.GenerateOptions; zero
// values leave a part out. batch.positions bounds the tokens that all texts may hold together, batch.rows
// those of a pass; zeros are the worker's own choice. Equal seeds give equal texts in
// workers of one identity, whatever else they write: a text that was lost with its
// worker can be written again by another.
//
// A worker ends when its input ends: a node that dies takes its workers along.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
)

// Version is that of the protocol. Version 1 knew no texts, and 2 no separators, without
// which a worker would train something else; 3 is described above.
const Version = 3

// Limits of a frame.
const (
	magic   = "SHW3"
	maxHead = 1 << 20
	maxPart = 1 << 20
	frame   = 16

	more   = 1 // flags
	broken = 2
)

// Limits of what a message may ask for.
const (
	MaxTokens = 1 << 26 // of a batch or prompt
	MaxTexts  = 1 << 12 // out at a time
	maxName   = 200
	maxStop   = 1 << 10 // tokens that end a text
)

// ErrLost is what a Client's methods wrap where the worker is gone or no longer
// makes sense: what it held is lost, and a new one must be started.
var ErrLost = errors.New("the worker is lost")

// ErrProtocol is what a reader wraps where the bytes are not the protocol's.
var ErrProtocol = errors.New("not the worker protocol")

// A Trainer is what a worker runs, and what a Client gives. See node.Trainer.
type Trainer interface {
	Step(batch [][]int32, lr float64) (loss float64, err error)
	Eval(batch [][]int32) (loss float64, err error)
	Hidden() (rows []float32, width int)
	Params() []float32
	SetParams(params []float32) error
	Save(w io.Writer) error
	Load(r io.Reader) error
	Close() error
}

// An Optimizer holds AdamW's numbers.
type Optimizer struct {
	Beta1       float64 `json:"beta1"`
	Beta2       float64 `json:"beta2"`
	Eps         float64 `json:"eps"`
	WeightDecay float64 `json:"weight_decay"`
	Clip        float64 `json:"clip"`
}

// A Generator is what a worker writes texts with. Generate may be called by many
// goroutines; Close is called when all have returned.
type Generator interface {
	// Generate goes on from prompt and yields token by token until the text ends,
	// yield returns false, or ctx ends. Where s.Hidden is set, tap is told the last
	// hidden state of each position that is read, in order; its values are valid during
	// the call.
	Generate(ctx context.Context, prompt []int32, s Sampling, tap func(hidden []float32), yield func(Token) bool) error
	Close() error
}

// A Batch sizes a generator: see llama.BatchOptions.
type Batch struct {
	Streams   int  `json:"streams"`
	Rows      int  `json:"rows"`
	Positions int  `json:"positions"`
	BF16      bool `json:"bf16"`
}

// Sampling says how a text is written: see llama.GenerateOptions.
type Sampling struct {
	MaxTokens   int     `json:"max_tokens"`
	Temperature float64 `json:"temperature"`
	TopK        int     `json:"top_k"`
	TopP        float64 `json:"top_p"`
	MinP        float64 `json:"min_p"`
	Repetition  float64 `json:"repetition"`
	Frequency   float64 `json:"frequency"`
	Presence    float64 `json:"presence"`
	Seed        uint64  `json:"seed"`
	Stop        []int32 `json:"stop"`
	LogProbs    bool    `json:"log_probs"`
	Hidden      bool    `json:"hidden"`
}

// A Token is one that was written.
type Token struct {
	ID      int32
	LogProb float64 // only where Sampling.LogProbs is set
}

// A head is the JSON of a message; which fields count depends on the op.
type head struct {
	Worker   int    `json:"worker,omitempty"` // the greeting: the version
	Name     string `json:"name,omitempty"`
	Identity string `json:"identity,omitempty"`

	ID    uint64 `json:"id,omitempty"`
	Op    string `json:"op,omitempty"`
	Error string `json:"error,omitempty"`

	Config    json.RawMessage `json:"config,omitempty"`
	Optimizer *Optimizer      `json:"optimizer,omitempty"`
	Separator *int32          `json:"separator,omitempty"`
	Rows      int             `json:"rows,omitempty"`
	Cols      int             `json:"cols,omitempty"`
	LR        float64         `json:"lr,omitempty"`
	Loss      *number         `json:"loss,omitempty"`
	Batch     *Batch          `json:"batch,omitempty"`
	Sampling  *Sampling       `json:"sampling,omitempty"`
	More      bool            `json:"more,omitempty"`
}

// number is a float64 that JSON may not be able to hold.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	if f := float64(n); !math.IsNaN(f) && !math.IsInf(f, 0) {
		return json.Marshal(f)
	}
	return []byte("null"), nil
}
